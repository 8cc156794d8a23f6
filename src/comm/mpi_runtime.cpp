#include <mpi.h>

#include <cstdio>
#include <cstdlib>

#include "comm/mpi_check.h"
#include "comm/mpi_communicator.h"

namespace gptq {

MpiRuntime::MpiRuntime(int* argc, char*** argv) {
  int provided = 0;
  GPTQ_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
  // Of calls that belong to no communicator too: main ends the job, with a message and its own exit code.
  GPTQ_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
}

MpiRuntime::~MpiRuntime() {
  if (MPI_Finalize() != MPI_SUCCESS) std::fputs("gptq-hpc: MPI_Finalize failed\n", stderr);
}

std::unique_ptr<Communicator> MpiRuntime::world() {
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD);
}

void MpiRuntime::abort(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::string MpiRuntime::library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text, static_cast<std::size_t>(length));
  return version.substr(0, version.find(','));
}

}  // namespace gptq
