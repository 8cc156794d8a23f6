// RankWatch's roll calls: who is asked on behalf of a rank that waits too long, and what the answers mean.

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "comm/rank_watch.h"
#include "comm/watch_tags.h"

namespace gptq {
namespace {

/// A rank that comes back from work has answers lying in MPI's buffers that take a few looks to be seen.
constexpr int kLooksToSeeThem = 3;

}  // namespace

/// Will a roll call that is under way tell this rank to go on? Not if it was asked in an earlier wait.
bool RankWatch::is_covered(const Late& late) const {
  return std::any_of(roll_calls_.begin(), roll_calls_.end(), [&](const RollCall& roll) {
    if (roll.everyone || roll.late.position.team != late.position.team) return false;
    const auto found = std::find(roll.ranks.begin(), roll.ranks.end(), late.rank);
    if (found == roll.ranks.end()) return false;
    const auto& answer = roll.answers[static_cast<std::size_t>(found - roll.ranks.begin())];
    return !answer || answer->wait == late.position.wait;
  });
}

void RankWatch::start_roll_calls() {
  for (auto late = late_.begin(); late != late_.end();) {
    if (is_covered(*late)) {
      ++late;
      continue;
    }
    const bool over = late->rank == rank_ && (!waiting_ || late->position.wait != position_.wait);
    if (!over) start_roll_call(*late);
    late = late_.erase(late);
  }
}

void RankWatch::start_roll_call(const Late& late) {
  const TeamId team = late.position.team;
  RollCall roll;
  roll.call = ++calls_;
  roll.late = late;
  roll.ranks =
      team <= kMessage ? std::vector<int>{rank_, static_cast<int>(kMessage - team)} : teams_.at(team).ranks;
  roll.answers.resize(roll.ranks.size());
  roll.asked = clock_;
  for (const int rank : roll.ranks) call(roll, rank);
  roll_calls_.push_back(std::move(roll));
}

void RankWatch::call(RollCall& roll, int rank) {
  Position question = here();
  question.call = roll.call;
  if (rank != rank_) send(question, rank, kCall);
}

void RankWatch::note_answer(const Position& answer, int sender) {
  for (RollCall& roll : roll_calls_) {
    if (roll.call != answer.call) continue;
    const auto found = std::find(roll.ranks.begin(), roll.ranks.end(), sender);
    if (found != roll.ranks.end())
      roll.answers[static_cast<std::size_t>(found - roll.ranks.begin())] = answer;
  }
}

void RankWatch::settle_roll_calls() {
  for (auto roll = roll_calls_.begin(); roll != roll_calls_.end();) {
    if (!is_settled(*roll)) {
      ++roll;
      continue;
    }
    if (must_confirm(*roll)) {
      confirm(*roll);
      ++roll;
      continue;
    }
    const RollCall settled = std::move(*roll);
    roll = roll_calls_.erase(roll);
    if (settled.everyone) {
      judge_everyone(settled);
    } else {
      judge(settled);
    }
  }
}

/// Everybody answered, or had the time to.
bool RankWatch::is_settled(RollCall& roll) {
  bool complete = true;
  for (std::size_t i = 0; i < roll.ranks.size(); ++i) {
    if (roll.ranks[i] == rank_) roll.answers[i] = here();
    complete = complete && roll.answers[i].has_value();
  }
  if (complete || (roll.confirming && roll.answers[reporter(roll)])) return true;
  if (clock_ - roll.asked < (roll.confirming ? timing_.roll_call : answer_time())) return false;
  for (int look = 0; look < kLooksToSeeThem; ++look) hear_all();
  return true;
}

std::size_t RankWatch::reporter(const RollCall& roll) {
  const auto found = std::find(roll.ranks.begin(), roll.ranks.end(), roll.late.rank);
  GPTQ_EXPECT(found != roll.ranks.end());
  return static_cast<std::size_t>(found - roll.ranks.begin());
}

bool RankWatch::waits_still(const RollCall& roll) {
  const std::optional<Position>& answer = roll.answers[reporter(roll)];
  const Position& late = roll.late.position;
  return answer && answer->team == late.team && answer->wait == late.wait;
}

std::vector<int> RankWatch::missing_ranks(const RollCall& roll) {
  std::vector<int> missing;
  for (std::size_t i = 0; i < roll.ranks.size(); ++i) {
    if (!roll.answers[i]) missing.push_back(roll.ranks[i]);
  }
  return missing;
}

/// While the others had time to answer, the late rank may have got what it waited for: they then work, and
/// are silent for that reason.
bool RankWatch::must_confirm(const RollCall& roll) const {
  return !roll.everyone && !roll.confirming && roll.late.rank != rank_ && waits_still(roll) &&
         !missing_ranks(roll).empty();
}

void RankWatch::confirm(RollCall& roll) {
  roll.confirming = true;
  roll.answers[reporter(roll)].reset();
  roll.asked = clock_;
  call(roll, roll.late.rank);
}

void RankWatch::judge(const RollCall& roll) {
  // Its report is stale, or it will remind this rank.
  if (!waits_still(roll)) return;
  const std::vector<int> missing = missing_ranks(roll);
  if (!missing.empty()) throw_missing(missing, *roll.answers[reporter(roll)]);
  const TeamId team = roll.late.position.team;
  bool busy = false, elsewhere = team <= kMessage;
  for (const std::optional<Position>& answer : roll.answers) {
    busy = busy || answer->team == kBusy;
    elsewhere = elsewhere || answer->team != team;
  }
  if (!busy && elsewhere) ask_everyone();
  if (!elsewhere) judge_team(roll);
  let_go_on(roll);
}

void RankWatch::let_go_on(const RollCall& roll) {
  for (std::size_t i = 0; i < roll.ranks.size(); ++i) {
    const Position& answer = *roll.answers[i];
    if (answer.team != roll.late.position.team) continue;
    // Reports that say nothing new.
    std::erase_if(late_, [&](const Late& late) {
      return late.rank == roll.ranks[i] && late.position.wait == answer.wait;
    });
    if (roll.ranks[i] != rank_) {
      send(answer, roll.ranks[i], kGoOn);
    } else {
      reported_ = false;
      next_report_ = waited_ + timing_.roll_call;
    }
  }
}

void RankWatch::throw_missing(const std::vector<int>& missing, const Position& late) const {
  throw CommError(
      "{} did not come to {} in {:.1f} s: stopped, hanging, or busy for longer than comm.timeout. Look at "
      "the process there (`ps -o stat,wchan,time -p PID`), leave out its node if it is broken, raise "
      "comm.timeout if it was only slow, and run the same command again",
      names_of(missing), operation_text(late), late.seconds);
}

std::string RankWatch::operation_text(const Position& position) {
  if (position.number == 0) return fmt::format("a message ({})", position.name);
  return fmt::format("collective operation #{} ({})", position.number, position.name);
}

std::string RankWatch::names_of(const std::vector<int>& ranks) const {
  std::string text;
  for (const int rank : ranks) text += (text.empty() ? "" : ", ") + name_of(rank);
  return text;
}

std::string RankWatch::name_of(int rank) const {
  const Process& process = processes_[static_cast<std::size_t>(rank)];
  return fmt::format("rank {} (process {} on {})", rank, process.pid, process.host);
}

}  // namespace gptq
