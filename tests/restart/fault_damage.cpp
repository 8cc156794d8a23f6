// Checkpoints that were cut off, altered or lost after they were written.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <stdexcept>

#include "io/job_lock.h"
#include "restart/fault_bench.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;

/// A job that was killed in its middle, set aside to be damaged again and again.
class InterruptedJob {
 public:
  explicit InterruptedJob(FaultBench& bench) : bench_(bench), kept_(bench.directory() / "interrupted") {
    const fs::path output = bench.new_output();
    Fault fault;
    fault.kind = FaultKind::rename;
    fault.mode = FaultMode::kill_after;
    // Each generation renames the root's file, the view and the manifest.
    fault.call = 3 * 17;
    fault.below = output / "checkpoint";
    attempt_ = bench.run(output, 2, fault);
    if (!attempt_.fired)
      throw std::runtime_error("the job to be damaged was not interrupted:\n" + attempt_.output);
    fs::copy(output, kept_, fs::copy_options::recursive);
  }

  /// A fresh copy; how it was interrupted.
  fs::path copy() {
    const fs::path output = bench_.new_output();
    fs::copy(kept_, output, fs::copy_options::recursive);
    return output;
  }
  const Attempt& attempt() const { return attempt_; }

  /// Names in checkpoint/, newest generation first.
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(kept_ / "checkpoint")) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.rbegin(), names.rend());
    return names;
  }
  std::string newest_manifest() const {
    const auto names = files();
    const auto found = std::find_if(names.begin(), names.end(), is_manifest);
    if (found == names.end()) throw std::runtime_error("the interrupted job has no generation");
    return *found;
  }
  static bool is_manifest(const std::string& name) { return name.ends_with(".json"); }

 private:
  FaultBench& bench_;
  fs::path kept_;
  Attempt attempt_;
};

enum class Damage { flip_first, flip_middle, flip_last, cut_half, cut_all, remove };
constexpr std::array<const char*, 6> kDamageNames = {"bit flipped at the start", "bit flipped in the middle",
                                                     "bit flipped at the end",   "cut to half",
                                                     "cut to nothing",           "removed"};

void flip(const fs::path& file, std::uintmax_t offset, int bit) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(static_cast<std::streamoff>(offset));
  const int byte = stream.get();
  stream.seekp(static_cast<std::streamoff>(offset));
  stream.put(static_cast<char>(byte ^ (1 << bit)));
  if (!stream.flush()) throw std::runtime_error("cannot damage " + file.string());
}

void inflict(const fs::path& file, Damage damage, int bit) {
  const std::uintmax_t bytes = fs::file_size(file);
  switch (damage) {
    case Damage::flip_first:
      return flip(file, 0, bit);
    case Damage::flip_middle:
      return flip(file, bytes / 2, bit);
    case Damage::flip_last:
      return flip(file, bytes - 2, bit);  // text may end in a line break
    case Damage::cut_half:
      return fs::resize_file(file, bytes / 2);
    case Damage::cut_all:
      return fs::resize_file(file, 0);
    case Damage::remove:
      fs::remove(file);
  }
}

/// "gen-000012-rank-0001.h5" → "gen-000012"
std::string generation_of(const std::string& name) {
  return name.substr(0, std::string("gen-000000").size());
}

/// The view is for people; everything else of a generation that counts must be good.
bool matters(const std::string& name) {
  return InterruptedJob::is_manifest(name) || name.find("-rank-") != std::string::npos;
}

void damage_one(FaultBench& bench, InterruptedJob& job, const std::string& name, Damage damage) {
  const fs::path output = job.copy();
  inflict(output / "checkpoint" / name, damage, static_cast<int>(bench.random()() % 8));
  const bool newest = generation_of(name) == generation_of(job.newest_manifest());
  const Attempt resumed = bench.run(output, bench.next_ranks());
  Verdict verdict{resumed.exit_code == 0 ? bench.difference(output) : "the job ended with an error", false};
  verdict.identical = verdict.wrong.empty();
  // A manifest that is gone leaves no trace; what it named counts as never committed.
  const bool to_be_named =
      newest && matters(name) && !(damage == Damage::remove && InterruptedJob::is_manifest(name));
  if (verdict.wrong.empty() && to_be_named && (!resumed.says(name) || !resumed.says("warn"))) {
    verdict.wrong = "no warning names the file";
  }
  if (verdict.wrong.empty() && resumed.taken_up == 0) verdict.wrong = "started over";
  if (!verdict.wrong.empty()) verdict.wrong += ":\n" + resumed.output;
  const std::string kind = InterruptedJob::is_manifest(name) ? "manifest"
                           : matters(name)                   ? "rank file"
                                                             : "view";
  bench.count(kind + " " + kDamageNames[static_cast<std::size_t>(damage)], true, verdict, name);
}

/// Everything but the lock, which a job that is refused takes over and gives back.
std::map<std::string, std::string> kept_files(const fs::path& output) {
  auto files = contents_of(output);
  files.erase(kLockFile);
  return files;
}

/// Blocks that were finished lie in the output itself.
void damage_output(FaultBench& bench, InterruptedJob& job, const std::string& name, Damage damage) {
  const fs::path output = job.copy();
  inflict(output / name, damage, 3);
  const auto before = kept_files(output);
  const Attempt resumed = bench.run(output, bench.next_ranks());
  Verdict verdict{bench.offence(resumed, output), false};
  verdict.identical = verdict.wrong.empty();
  if (verdict.wrong.empty() && resumed.exit_code != 0 &&
      (resumed.exit_code != 4 || kept_files(output) != before)) {
    verdict.wrong = "refused with code " + std::to_string(resumed.exit_code) + " or changed something";
  }
  if (!verdict.wrong.empty()) verdict.wrong += ":\n" + resumed.output;
  bench.count("finished weights " + std::string(kDamageNames[static_cast<std::size_t>(damage)]), true,
              verdict, name);
}

/// One file of every generation is bad.
void damage_all(FaultBench& bench, InterruptedJob& job, Damage damage) {
  const fs::path output = job.copy();
  for (const std::string& name : job.files()) {
    if (damage == Damage::remove ? name.find("-rank-0001") != std::string::npos
                                 : InterruptedJob::is_manifest(name)) {
      inflict(output / "checkpoint" / name, damage, 5);
    }
  }
  const auto before = kept_files(output);
  const Attempt refused = bench.run(output, bench.next_ranks());
  Verdict verdict;
  if (refused.exit_code != 4)
    verdict.wrong = "ended with code " + std::to_string(refused.exit_code) + ", not 4";
  if (verdict.wrong.empty() && kept_files(output) != before) verdict.wrong = "files were changed";
  verdict.identical = verdict.wrong.empty();
  if (!verdict.wrong.empty()) verdict.wrong += ":\n" + refused.output;
  bench.count(std::string("all generations bad: refused"), true, verdict,
              kDamageNames[static_cast<std::size_t>(damage)]);
}

}  // namespace

void damage_checkpoints(FaultBench& bench) {
  InterruptedJob job(bench);
  const std::vector<std::string> files = job.files();
  const auto generations = std::count_if(files.begin(), files.end(), InterruptedJob::is_manifest);
  if (generations < 2) throw std::runtime_error("the interrupted job kept fewer than two generations");
  std::size_t turn = 0;
  for (const std::string& name : files) {
    for (std::size_t damage = 0; damage < kDamageNames.size(); ++damage) {
      // The sample takes one kind of damage a file, another one each time.
      if (bench.options().full || damage == turn % kDamageNames.size()) {
        damage_one(bench, job, name, static_cast<Damage>(damage));
      }
    }
    ++turn;
  }
  std::vector<std::string> weights;
  for (const auto& entry : fs::directory_iterator(job.copy())) {
    const std::string name = entry.path().filename().string();
    if (name.find(".safetensors") != std::string::npos) weights.push_back(name);
  }
  std::sort(weights.begin(), weights.end());
  for (const std::string& name : weights) {
    for (const Damage damage : {Damage::flip_middle, Damage::cut_half, Damage::remove}) {
      if (bench.options().full || damage == Damage::flip_middle) damage_output(bench, job, name, damage);
    }
  }
  for (const Damage damage : {Damage::flip_middle, Damage::cut_half, Damage::remove})
    damage_all(bench, job, damage);
  bench.note("Damage: to every file of an interrupted job with " + std::to_string(generations) +
             " generations.");
}

}  // namespace gptq::test
