#include "restart/fault_bench.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "base/clock.h"
#include "io/job_lock.h"
#include "support/tiny_model.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Times differ from run to run, and what an attempt left that was killed while it took the lock is removed
/// once it is too old to belong to a job that is taking it now.
bool may_differ(const std::string& name) {
  if (name.starts_with(std::string(kLockFile) + ".")) return true;
  return name == "report.json" || name == "report.csv";
}

std::map<std::string, std::string> result_files(const fs::path& output) {
  auto files = contents_of(output);
  std::erase_if(files, [](const auto& file) { return may_differ(file.first); });
  return files;
}

std::string last_lines(const std::string& text) {
  constexpr std::size_t kCharacters = 3000;
  return text.size() <= kCharacters ? text : "..." + text.substr(text.size() - kCharacters);
}

}  // namespace

std::map<std::string, std::string> contents_of(const fs::path& directory) {
  std::map<std::string, std::string> files;
  if (!fs::exists(directory)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file())
      files[fs::relative(entry.path(), directory).string()] = content(entry.path());
  }
  return files;
}

FaultBench::FaultBench(const FaultOptions& options)
    : options_(options), root_(fs::canonical(temporary_.path())), random_(options.seed) {
  TinyModelOptions model;
  model.layers = 3;
  write_tiny_model(root_ / "model", model);
  write_calibration(root_ / "calibration.h5", 8, 48, model.vocab, 1, /*ragged=*/true);
  // Two safetensors files, so that one is finished while the job still computes.
  std::ofstream(root_ / "job.yaml") << "model: {path: " << (root_ / "model").string() << "}\n"
                                    << "calibration: {path: " << (root_ / "calibration.h5").string()
                                    << ", chunk_tokens: 100}\n"
                                    << "quantization: {bits: 4, group_size: 32}\n"
                                    << "output: {path: unset, max_shard_bytes: 60000}\n"
                                    << "checkpoint: {interval: 0}\n"
                                    << "log: {progress: none}\n";
  const fs::path output = new_output();
  JobProcess job(options_.programs, arguments(output), 2, {}, root_);
  job.wait_for_start();
  const Stopwatch watch;
  const Attempt attempt = job.wait();
  working_seconds_ = watch.seconds();
  if (attempt.exit_code != 0) {
    throw std::runtime_error("the undisturbed run failed:\n" + last_lines(attempt.output));
  }
  reference_ = result_files(output);
  std::printf("undisturbed: %zu files, %ld generations, %.2f s\n", reference_.size(), attempt.committed,
              attempt.seconds);
  if (!reference_.contains("manifest.json")) throw std::runtime_error("the undisturbed run left no manifest");
}

fs::path FaultBench::new_output() {
  // Only one is needed at a time; a sweep would fill a small disk otherwise.
  fs::remove_all(root_ / ("output-" + std::to_string(outputs_)));
  return root_ / ("output-" + std::to_string(++outputs_));
}

std::vector<std::string> FaultBench::arguments(const fs::path& output,
                                               const std::vector<std::string>& more) const {
  std::vector<std::string> all{"quantize", (root_ / "job.yaml").string(), "--set",
                               "output.path=" + output.string()};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

Attempt FaultBench::run(const fs::path& output, int ranks, const Fault& fault,
                        const std::vector<std::string>& more) {
  JobProcess job(options_.programs, arguments(output, more), ranks, fault, root_);
  return job.wait();
}

std::string FaultBench::difference(const fs::path& output) const {
  const auto files = result_files(output);
  for (const auto& [name, bytes] : reference_) {
    const auto found = files.find(name);
    if (found == files.end()) return name + " is missing";
    if (found->second != bytes) return name + " has other bytes";
  }
  for (const auto& [name, bytes] : files) {
    if (!reference_.contains(name)) return name + " was left behind";
  }
  return {};
}

std::string FaultBench::offence(const Attempt& struck, const fs::path& output) const {
  if (struck.hung) return "hung:\n" + last_lines(struck.output);
  if (struck.exit_code == 0) {
    const std::string wrong = difference(output);
    // A file that could not be removed is in nobody's way; the next run of the same command tries again.
    if (struck.says("cannot remove") && wrong.ends_with("was left behind")) return {};
    return wrong.empty() ? wrong : "ended with code 0, but " + wrong + ":\n" + last_lines(struck.output);
  }
  if (!fs::exists(output / "manifest.json")) return {};
  // A manifest promises a complete output, whatever else still lies about.
  for (const auto& [name, bytes] : reference_) {
    if (content(output / name) != bytes)
      return "looks finished, but " + name + " is missing or has other bytes";
  }
  return {};
}

std::string lost_work(const Attempt& before, const Attempt& after) {
  if (before.committed <= after.taken_up || after.says("already holds")) return {};
  return "generation " + std::to_string(before.committed) + " was committed, " +
         std::to_string(after.taken_up) + " taken up";
}

Verdict FaultBench::bring_to_end(const Attempt& before, const fs::path& output,
                                 const std::vector<std::string>& more) {
  const int ranks = next_ranks();
  const Attempt last = run(output, ranks, {}, more);
  Verdict verdict;
  if (last.hung) {
    verdict.wrong = "hung";
  } else if (last.exit_code != 0) {
    verdict.wrong = "ended with code " + std::to_string(last.exit_code);
  } else {
    verdict.wrong = difference(output);
    verdict.identical = verdict.wrong.empty();
    if (verdict.identical && before.exit_code != 0) verdict.wrong = lost_work(before, last);
  }
  if (!verdict.wrong.empty()) {
    verdict.wrong = "resumed on " + std::to_string(ranks) + " ranks: " + verdict.wrong +
                    "\n--- struck attempt (code " + std::to_string(before.exit_code) + "):\n" +
                    last_lines(before.output) + "--- resumed attempt:\n" + last_lines(last.output);
  }
  return verdict;
}

void FaultBench::count(const std::string& row, bool struck, const Verdict& verdict, const std::string& what) {
  if (!rows_.contains(row)) row_order_.push_back(row);
  FaultCount& counts = rows_[row];
  counts.points += 1;
  counts.struck += struck ? 1 : 0;
  counts.survived += verdict.wrong.empty() ? 1 : 0;
  counts.identical += verdict.identical ? 1 : 0;
  if (verdict.wrong.empty()) return;
  failures_ += 1;
  std::printf("FAILED: %s, %s: %s\n", row.c_str(), what.c_str(), verdict.wrong.c_str());
  std::fflush(stdout);
}

void FaultBench::note(const std::string& text) {
  notes_.push_back(text);
}

void FaultBench::print_table() const {
  std::printf("\n| %-42s | %6s | %6s | %8s | %9s |\n|%s|--------|--------|----------|-----------|\n", "fault",
              "points", "struck", "survived", "identical", std::string(44, '-').c_str());
  FaultCount total;
  for (const std::string& row : row_order_) {
    const FaultCount& c = rows_.at(row);
    std::printf("| %-42s | %6d | %6d | %8d | %9d |\n", row.c_str(), c.points, c.struck, c.survived,
                c.identical);
    total.points += c.points;
    total.struck += c.struck;
    total.survived += c.survived;
    total.identical += c.identical;
  }
  std::printf("| %-42s | %6d | %6d | %8d | %9d |\n\n", "all", total.points, total.struck, total.survived,
              total.identical);
  for (const std::string& text : notes_) std::printf("%s\n", text.c_str());
  std::printf("%s\n", good() ? "every interruption was survived" : "SOME INTERRUPTIONS WERE NOT SURVIVED");
}

}  // namespace gptq::test
