#include "config/version.h"

namespace gptq {

// CMake defines both names for this file alone, from what it found.
std::string version() {
  return GPTQ_HPC_VERSION;
}
std::string build_features() {
  return GPTQ_HPC_FEATURES;
}

}  // namespace gptq
