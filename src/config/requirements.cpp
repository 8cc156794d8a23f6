#include "config/requirements.h"

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"

namespace gptq {
namespace {

void throw_if_any(const std::string& command, const std::vector<std::string>& mistakes) {
  if (mistakes.empty()) return;
  std::string text = fmt::format("the job does not say all that `{}` needs:", command);
  for (const std::string& mistake : mistakes) text += "\n" + mistake;
  throw UsageError("{}", text);
}

std::string missing(const std::string& key, const std::string& what, const std::string& example) {
  return fmt::format("{}: is required: {}; give it in the job file or as --set {}={}", key, what, key,
                     example);
}

/// The same place, whether or not it exists yet.
bool same_place(const std::string& a, const std::string& b) {
  std::error_code ignored;  // a path that cannot be resolved is reported where it is opened
  const auto resolve = [&](const std::string& path) {
    return std::filesystem::weakly_canonical(path, ignored);
  };
  return resolve(a) == resolve(b) || std::filesystem::equivalent(a, b, ignored);
}

}  // namespace

void require_for_quantize(const JobConfig& job) {
  std::vector<std::string> mistakes;
  if (job.quantization.method == "gptq" && job.calibration.path.empty()) {
    mistakes.push_back(missing("calibration.path", "the file made by tools/prepare_calibration.py", "FILE"));
  }
  if (job.output.path.empty()) {
    mistakes.push_back(missing("output.path", "the directory to make", "DIR"));
  } else if (same_place(job.output.path, job.model.path)) {
    mistakes.push_back(
        fmt::format("output.path: '{}' is the source model itself (model.path); choose another directory",
                    job.output.path));
  }
  throw_if_any("quantize", mistakes);
}

void require_for_eval(const JobConfig& job) {
  std::vector<std::string> mistakes;
  if (job.eval.data.empty()) {
    mistakes.push_back(
        "eval.data: is required: files of tokens made by tools/prepare_calibration.py; give them in the "
        "job file or as --data FILE...");
  }
  if (job.eval.model.empty() && job.output.path.empty()) {
    mistakes.push_back(
        "eval.model: is required where output.path is not given; give it in the job file or as "
        "--model DIR");
  }
  throw_if_any("eval", mistakes);
}

}  // namespace gptq
