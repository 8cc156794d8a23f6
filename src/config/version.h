#pragma once

#include <string>

namespace gptq {

std::string version();         ///< "0.1.0"
std::string build_features();  ///< "GCC 12.2.0, Open MPI 4.1.4, HDF5 1.10.8, oneDNN 2.6.3, backends: cpu"

}  // namespace gptq
