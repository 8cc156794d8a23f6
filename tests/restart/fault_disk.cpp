// Disks that are really full: small file systems in memory.
#include <sys/mount.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "restart/fault_bench.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;

/// A tmpfs of so many bytes, for as long as this object lives.
class SmallDisk {
 public:
  SmallDisk(const fs::path& directory, std::size_t kilobytes) : directory_(directory) {
    fs::create_directories(directory);
    mounted_ = mount("tmpfs", directory.c_str(), "tmpfs", 0, size(kilobytes).c_str()) == 0;
    reason_ = mounted_ ? "" : std::strerror(errno);
  }
  ~SmallDisk() {
    if (mounted_) umount2(directory_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool grow(std::size_t kilobytes) const {
    return mount("tmpfs", directory_.c_str(), "tmpfs", MS_REMOUNT, size(kilobytes).c_str()) == 0;
  }
  bool mounted() const { return mounted_; }
  const std::string& reason() const { return reason_; }
  const fs::path& directory() const { return directory_; }

 private:
  static std::string size(std::size_t kilobytes) { return "size=" + std::to_string(kilobytes) + "k"; }

  fs::path directory_;
  bool mounted_ = false;
  std::string reason_;
};

constexpr std::size_t kAmple = 64 << 10;

/// No room for checkpoints must not end a job that has room for its output.
void full_checkpoint_disk(FaultBench& bench, const SmallDisk& disk, std::size_t kilobytes) {
  const fs::path output = bench.new_output();
  const fs::path checkpoint = disk.directory() / "checkpoint";
  const Attempt attempt = bench.run(output, 2, {}, {"--set", "checkpoint.path=" + checkpoint.string()});
  Verdict verdict{attempt.exit_code == 0 ? bench.difference(output) : "ended with an error", false};
  verdict.identical = verdict.wrong.empty();
  const bool struck = attempt.says("could not be written");
  if (verdict.wrong.empty() && struck && !attempt.says("No space left"))
    verdict.wrong = "no reason was given";
  if (!verdict.wrong.empty()) verdict.wrong += ":\n" + attempt.output;
  bench.count("tmpfs of checkpoints full", struck, verdict, std::to_string(kilobytes) + " kB");
}

/// A full output disk ends the job; with more room it goes on.
void full_output_disk(FaultBench& bench, const SmallDisk& disk, std::size_t kilobytes) {
  const fs::path output = disk.directory() / "output";
  const Attempt attempt = bench.run(output, 2);
  Verdict verdict{bench.offence(attempt, output), false};
  if (!disk.grow(kAmple)) verdict.wrong = "the small file system cannot grow";
  if (verdict.wrong.empty()) verdict = bench.bring_to_end(attempt, output);
  bench.count("tmpfs of output full", attempt.exit_code != 0 || attempt.says("could not be written"), verdict,
              std::to_string(kilobytes) + " kB");
}

}  // namespace

void fill_disks(FaultBench& bench) {
  const std::vector<std::size_t> sampled{100, 400};
  const std::vector<std::size_t> all{16, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1200};
  for (const std::size_t kilobytes : bench.options().full ? all : sampled) {
    const SmallDisk disk(bench.directory() / "small-disk", kilobytes);
    if (!disk.mounted()) {
      bench.note("SKIPPED: full disks, since a tmpfs cannot be mounted here (" + disk.reason() +
                 "); the fault 'disk full' covers the same calls.");
      return;
    }
    full_checkpoint_disk(bench, disk, kilobytes);
    std::error_code ignored;
    fs::remove_all(disk.directory() / "checkpoint", ignored);
    // The output needs 4 MiB to spare before it starts; the checkpoints then share the room.
    const SmallDisk larger(bench.directory() / "larger-disk", kilobytes + 4096);
    full_output_disk(bench, larger, kilobytes + 4096);
  }
}

}  // namespace gptq::test
