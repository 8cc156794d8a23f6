#pragma once

#include <mpi.h>

namespace gptq {

/// Throws CommError with MPI's own text if `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* call, const char* file, int line);

#define GPTQ_MPI(call) ::gptq::check_mpi((call), #call, __FILE__, __LINE__)

}  // namespace gptq
