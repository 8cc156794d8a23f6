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

std::string list_of(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) text += (i == 0 ? "" : ", ") + items[i];
  return text;
}

}  // namespace

/// Will a roll call that is under way tell this rank to go on? Not if it was asked in an earlier wait.
bool RankWatch::is_covered(const Late& late) const {
  return std::any_of(roll_calls_.begin(), roll_calls_.end(), [&](const RollCall& roll) {
    if (roll.late.position.team != late.position.team) return false;
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
  Position call = here();
  call.call = roll.call;
  for (const int rank : roll.ranks) {
    if (rank != rank_) send(call, rank, kCall);
  }
  roll_calls_.push_back(std::move(roll));
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
    const RollCall settled = std::move(*roll);
    roll = roll_calls_.erase(roll);
    judge(settled);
  }
}

/// Everybody answered, or had the time to.
bool RankWatch::is_settled(RollCall& roll) {
  bool complete = true;
  for (std::size_t i = 0; i < roll.ranks.size(); ++i) {
    if (roll.ranks[i] == rank_) roll.answers[i] = here();
    complete = complete && roll.answers[i].has_value();
  }
  if (complete) return true;
  if (roll.asked.seconds() < answer_time()) return false;
  for (int look = 0; look < kLooksToSeeThem; ++look) hear_all();
  return true;
}

void RankWatch::judge(const RollCall& roll) {
  const Position& late = roll.late.position;
  std::vector<int> missing;
  bool alive_elsewhere = late.team <= kMessage;  // who sends or receives may wait for others
  for (std::size_t i = 0; i < roll.ranks.size(); ++i) {
    const std::optional<Position>& answer = roll.answers[i];
    if (!answer) {
      missing.push_back(roll.ranks[i]);
      continue;
    }
    // The rank that was late has what it waited for.
    if (roll.ranks[i] == roll.late.rank && (answer->team != late.team || answer->wait != late.wait)) return;
    alive_elsewhere = alive_elsewhere || answer->team != late.team;
  }
  if (!missing.empty()) throw_missing(missing, late);
  if (!alive_elsewhere) judge_waiting(roll);
  let_go_on(roll);
}

/// All wait for each other: it may still end, unless none has moved since an earlier roll call.
void RankWatch::judge_waiting(const RollCall& roll) {
  Team& team = teams_.at(roll.late.position.team);
  std::vector<std::int64_t> waits;
  for (const std::optional<Position>& answer : roll.answers) waits.push_back(answer->wait);
  if (waits != team.waits) {
    team.waits = std::move(waits);
    team.since = Stopwatch();
    return;
  }
  if (team.since.seconds() < timing_.roll_call) return;
  std::vector<std::string> places;
  for (std::size_t i = 0; i < roll.ranks.size(); ++i) {
    places.push_back(
        fmt::format("{} in {} #{}", name_of(roll.ranks[i]), roll.answers[i]->name, roll.answers[i]->number));
  }
  throw CommError(
      "all ranks have waited for each other for {:.0f} s: {}. If these differ it is a defect of this "
      "program, else the network lost a message; run the same command again",
      roll.late.position.seconds, list_of(places));
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
  std::vector<std::string> names;
  for (int rank : missing) names.push_back(name_of(rank));
  throw CommError(
      "{} did not come to {} in {:.1f} s: stopped, hanging, or busy for longer than comm.timeout. Look at "
      "the "
      "process there (`ps -o stat,wchan,time -p PID`), leave out its node if it is broken, raise "
      "comm.timeout "
      "if it was only slow, and run the same command again",
      list_of(names), operation_text(late), late.seconds);
}

std::string RankWatch::operation_text(const Position& position) {
  if (position.number == 0) return fmt::format("a message ({})", position.name);
  return fmt::format("collective operation #{} ({})", position.number, position.name);
}

std::string RankWatch::name_of(int rank) const {
  const Process& process = processes_[static_cast<std::size_t>(rank)];
  return fmt::format("rank {} (process {} on {})", rank, process.pid, process.host);
}

}  // namespace gptq
