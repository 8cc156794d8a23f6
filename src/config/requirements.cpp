#include "config/requirements.h"

#include <fmt/format.h>

#include <algorithm>
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

/// `path` without symbolic links, "..", and a slash at its end; it need not exist.
std::filesystem::path resolved(const std::string& path) {
  std::error_code error;
  std::filesystem::path result = std::filesystem::weakly_canonical(path, error);
  if (error)
    result = std::filesystem::path(path).lexically_normal();  // what is wrong shows where it is opened
  return result.has_filename() ? result : result.parent_path();
}

/// `inner` is `outer` or lies somewhere below it.
bool is_within(const std::filesystem::path& inner, const std::filesystem::path& outer) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

}  // namespace

void require_for_quantize(const JobConfig& job) {
  std::vector<std::string> mistakes;
  if (job.quantization.method == "gptq" && job.calibration.path.empty()) {
    mistakes.push_back(missing("calibration.path", "the file made by tools/prepare_calibration.py", "FILE"));
  }
  if (job.output.path.empty()) {
    mistakes.push_back(missing("output.path", "the directory to make", "DIR"));
  } else if (is_within(resolved(job.model.path), resolved(job.output.path))) {
    mistakes.push_back(
        fmt::format("output.path: '{}' is or contains the source model ({}); choose another directory",
                    job.output.path, job.model.path));
  }
  if (!job.checkpoint.path.empty() && resolved(job.checkpoint.path) == resolved(job.output.path)) {
    mistakes.push_back(
        "checkpoint.path: is the same as output.path; leave it out, or name a directory of its own");
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
