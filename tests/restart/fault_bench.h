#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "restart/fault_process.h"
#include "support/temp_directory.h"

namespace gptq::test {

struct FaultOptions {
  Programs programs;
  bool full = false;
  std::uint64_t seed = 1;
  std::string only;  ///< a part's name; empty: all parts
};

/// One line of the result's table.
struct FaultCount {
  int points = 0;     ///< interruptions tried
  int struck = 0;     ///< of them: the fault was met
  int survived = 0;   ///< the job went on to its end, nothing wrong was seen on the way
  int identical = 0;  ///< the end has the bytes of an undisturbed run
};

struct Verdict {
  std::string wrong;       ///< "" if all went as promised
  bool identical = false;  ///< the end has the bytes of an undisturbed run
};

/// A small job and what an undisturbed run of it gives; runs of it, and judgements about them.
class FaultBench {
 public:
  explicit FaultBench(const FaultOptions& options);

  const FaultOptions& options() const { return options_; }
  std::mt19937_64& random() { return random_; }
  const std::filesystem::path& directory() const { return root_; }
  /// An undisturbed run's, from the moment when all ranks have started.
  double working_seconds() const { return working_seconds_; }

  /// An output directory that does not exist yet.
  std::filesystem::path new_output();
  std::vector<std::string> arguments(const std::filesystem::path& output,
                                     const std::vector<std::string>& more = {}) const;
  Attempt run(const std::filesystem::path& output, int ranks, const Fault& fault = {},
              const std::vector<std::string>& more = {});

  /// What is wrong with a finished output: a file that is missing, too many, or has other bytes; "" if
  /// nothing.
  std::string difference(const std::filesystem::path& output) const;
  /// What no interruption may lead to: a job that hangs or an output that looks finished and is wrong. "" if
  /// nothing.
  std::string offence(const Attempt& struck, const std::filesystem::path& output) const;
  /// Runs the job to its end on the next number of ranks. Promised is: at once, from no older point than the
  /// newest generation that `before` had committed, and with the right bytes.
  Verdict bring_to_end(const Attempt& before, const std::filesystem::path& output,
                       const std::vector<std::string>& more = {});
  int next_ranks() { return 1 + turn_++ % 4; }

  /// Counts one interruption; complains at once if something is wrong.
  void count(const std::string& row, bool struck, const Verdict& verdict, const std::string& what);
  void note(const std::string& text);  ///< printed under the table
  void print_table() const;
  bool good() const { return failures_ == 0; }

 private:
  FaultOptions options_;
  TempDirectory temporary_;
  std::filesystem::path root_;
  std::map<std::string, std::string> reference_;  ///< file → content
  double working_seconds_ = 0;
  std::mt19937_64 random_;
  int outputs_ = 0;
  int turn_ = 0;
  int failures_ = 0;
  std::vector<std::string> row_order_;
  std::map<std::string, FaultCount> rows_;
  std::vector<std::string> notes_;
};

/// The newest generation of an attempt whose commit was complete as its log says, against what the next one
/// took up.
std::string lost_work(const Attempt& before, const Attempt& after);

std::map<std::string, std::string> contents_of(
    const std::filesystem::path& directory);  ///< relative name → bytes

// The parts of the sweep.
void strike_points(FaultBench& bench);       ///< fault_points.cpp
void hang_ranks(FaultBench& bench);          ///< fault_points.cpp
void kill_at_random(FaultBench& bench);      ///< fault_kills.cpp
void damage_checkpoints(FaultBench& bench);  ///< fault_damage.cpp
void fill_disks(FaultBench& bench);          ///< fault_disk.cpp

}  // namespace gptq::test
