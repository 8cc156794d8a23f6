#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace gptq {

/// Exit codes of the program; documented in README.md. A batch script may rely on them.
enum class ExitCode : int {
  ok = 0,
  internal = 1,       ///< a defect in this program
  bad_usage = 2,      ///< command line or job YAML
  bad_input = 3,      ///< model, calibration or other input data
  io = 4,             ///< a file system said no: permissions, space, damage
  numerical = 5,      ///< NaN, or more fallbacks than the job allows
  communication = 6,  ///< MPI failed or a rank stopped answering
  device = 7,         ///< accelerator or library kernel failure
  verify_failed = 8,  ///< `verify` found an output that loaders would reject
  come_back = 75,     ///< stopped early with a good checkpoint: run the same command again
};

/// Base of everything this program throws on purpose. The message says what happened, where, and what to do.
/// Libraries throw; `main` alone turns an Error into an exit code and ends the other ranks.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode exit_code() const { return code_; }

 private:
  ExitCode code_;
};

#define GPTQ_DEFINE_ERROR(Name, code)                                      \
  class Name : public Error {                                              \
   public:                                                                 \
    template <typename... Args>                                            \
    explicit Name(fmt::format_string<Args...> format, Args&&... args)      \
        : Error(code, fmt::format(format, std::forward<Args>(args)...)) {} \
  }

GPTQ_DEFINE_ERROR(UsageError, ExitCode::bad_usage);
GPTQ_DEFINE_ERROR(InputError, ExitCode::bad_input);
GPTQ_DEFINE_ERROR(IoError, ExitCode::io);
GPTQ_DEFINE_ERROR(NumericalError, ExitCode::numerical);
GPTQ_DEFINE_ERROR(CommError, ExitCode::communication);
GPTQ_DEFINE_ERROR(DeviceError, ExitCode::device);

#undef GPTQ_DEFINE_ERROR

/// A broken promise between two of our own functions: never the user's fault.
[[noreturn]] void contract_violation(const char* expression, const char* file, int line);

#define GPTQ_EXPECT(expression) \
  ((expression) ? static_cast<void>(0) : ::gptq::contract_violation(#expression, __FILE__, __LINE__))

}  // namespace gptq
