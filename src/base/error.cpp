#include "base/error.h"

namespace gptq {

void contract_violation(const char* expression, const char* file, int line) {
  throw Error(ExitCode::internal,
              fmt::format("internal error: '{}' does not hold ({}:{}); please report it with the job file",
                          expression, file, line));
}

}  // namespace gptq
