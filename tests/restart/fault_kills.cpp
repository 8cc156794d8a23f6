// Ranks that die at any time, several times in the life of one job, and each time on another number of ranks.
#include <algorithm>
#include <csignal>
#include <thread>
#include <utility>

#include "restart/fault_bench.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;

enum class Victim { one_rank, everything, asked };
constexpr std::array<const char*, 3> kVictimNames = {"SIGKILL of one rank", "SIGKILL of all ranks and mpirun",
                                                     "SIGUSR1 to one rank"};

template <typename Number>
Number draw(FaultBench& bench, Number first, Number last) {
  if constexpr (std::is_integral_v<Number>) {
    return std::uniform_int_distribution<Number>(first, last)(bench.random());
  } else {
    return std::uniform_real_distribution<Number>(first, last)(bench.random());
  }
}

struct Interruption {
  Victim victim{};
  int ranks = 0;
  int rank = 0;
  double after = 0;  ///< seconds from the moment when every rank runs
};

Interruption random_interruption(FaultBench& bench) {
  Interruption interruption;
  interruption.ranks = bench.next_ranks();
  interruption.rank = draw(bench, 0, interruption.ranks - 1);
  interruption.after = draw(bench, 0.0, bench.working_seconds());
  // Asking takes as long as the work since the last safe point; kills are what the sweep is about.
  const int dice = draw(bench, 0, 9);
  interruption.victim = dice < 5 ? Victim::one_rank : dice < 9 ? Victim::everything : Victim::asked;
  return interruption;
}

struct Interrupted {
  Attempt attempt;
  bool struck = false;  ///< before the job's end
};

Interrupted interrupt(FaultBench& bench, const fs::path& output, const Interruption& interruption) {
  Fault count_only;
  count_only.below = output;
  JobProcess job(bench.options().programs, bench.arguments(output), interruption.ranks, count_only,
                 bench.directory());
  job.wait_for_start();
  std::this_thread::sleep_for(std::chrono::duration<double>(interruption.after));
  Interrupted result;
  result.struck = job.running();
  switch (interruption.victim) {
    case Victim::one_rank:
      job.signal_rank(interruption.rank, SIGKILL);
      break;
    case Victim::everything:
      job.kill_everything();
      break;
    case Victim::asked:
      job.signal_rank(interruption.rank, SIGUSR1);
      break;
  }
  result.attempt = job.wait();
  return result;
}

std::string text_of(const Interruption& interruption) {
  return "rank " + std::to_string(interruption.rank) + " of " + std::to_string(interruption.ranks) +
         " after " + std::to_string(interruption.after) + " s";
}

/// Up to three interruptions one after the other, then to the end. Returns how many ranks or jobs were killed
/// at work.
int one_history(FaultBench& bench) {
  const fs::path output = bench.new_output();
  const int most = draw(bench, 1, 3);
  std::vector<std::pair<Interruption, bool>> met;  // and whether the job was still at work
  Attempt before;
  Verdict verdict;
  do {
    const Interruption interruption = random_interruption(bench);
    const Interrupted now = interrupt(bench, output, interruption);
    met.emplace_back(interruption, now.struck);
    verdict.wrong = bench.offence(now.attempt, output);
    // An attempt that was killed before it took up anything says nothing about lost work.
    const bool worked = now.attempt.taken_up > 0 || now.attempt.committed > 0;
    if (verdict.wrong.empty() && worked && now.attempt.exit_code != 0) {
      verdict.wrong = lost_work(before, now.attempt);
    }
    const long committed = std::max(before.committed, now.attempt.committed);
    before = now.attempt;
    before.committed = committed;
  } while (verdict.wrong.empty() && before.exit_code != 0 && static_cast<int>(met.size()) < most);
  if (verdict.wrong.empty()) verdict = bench.bring_to_end(before, output);
  int kills = 0;
  for (const auto& [interruption, struck] : met) {
    bench.count(kVictimNames[static_cast<std::size_t>(interruption.victim)], struck, verdict,
                text_of(interruption));
    if (struck && interruption.victim != Victim::asked) ++kills;
  }
  return kills;
}

}  // namespace

void kill_at_random(FaultBench& bench) {
  const int wanted = bench.options().full ? 100 : 12;
  int kills = 0;
  int histories = 0;
  for (; kills < wanted; ++histories) kills += one_history(bench);
  bench.note("Random kills: " + std::to_string(kills) + " met a job at work; " + std::to_string(histories) +
             " jobs of up to three interruptions each, on 1 to 4 ranks in turn.");
}

}  // namespace gptq::test
