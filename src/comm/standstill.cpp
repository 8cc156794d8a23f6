// Ranks that wait for each other for ever: each of them answers, and nobody can go on.

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "comm/rank_watch.h"
#include "comm/watch_tags.h"

namespace gptq {
namespace {

/// So many ranks are told of by name.
constexpr std::size_t kNamed = 16;

template <typename Answers>
std::vector<std::int64_t> waits_of(const Answers& answers) {
  std::vector<std::int64_t> waits;
  for (const auto& answer : answers) waits.push_back(answer->wait);
  return waits;
}

}  // namespace

/// All were found waiting, and each has waited for the timeout: there was a moment when nobody worked.
bool RankWatch::all_wait_for_long(const RollCall& roll) const {
  return std::all_of(roll.answers.begin(), roll.answers.end(), [&](const std::optional<Position>& answer) {
    return answer && answer->team != kBusy && answer->seconds >= timing_.timeout;
  });
}

/// All of the team wait in it: it may still end, unless none has moved since an earlier roll call.
void RankWatch::judge_team(const RollCall& roll) {
  Team& team = teams_.at(roll.late.position.team);
  if (!all_wait_for_long(roll)) {
    team.waits.clear();
    return;
  }
  std::vector<std::int64_t> waits = waits_of(roll.answers);
  if (waits != team.waits) {
    team.waits = std::move(waits);
    team.since = clock_;
    return;
  }
  if (clock_ - team.since >= timing_.roll_call) throw_standstill(roll);
}

/// Some wait elsewhere, for ranks that this one does not know of. Seldom: it costs a message to each rank.
void RankWatch::ask_everyone() {
  if (everyone_asked_at_ && clock_ - *everyone_asked_at_ < timing_.timeout) return;
  everyone_asked_at_ = clock_;
  RollCall roll;
  roll.call = ++calls_;
  roll.everyone = true;
  roll.late.rank = rank_;
  roll.late.position.team = kBusy;  // of no team
  roll.ranks.resize(static_cast<std::size_t>(size_));
  std::iota(roll.ranks.begin(), roll.ranks.end(), 0);
  roll.answers.resize(roll.ranks.size());
  roll.asked = clock_;
  for (const int rank : roll.ranks) call(roll, rank);
  roll_calls_.push_back(std::move(roll));
}

/// Who is silent is named by those that wait for it; this is about those who wait.
void RankWatch::judge_everyone(const RollCall& roll) {
  if (!all_wait_for_long(roll)) {
    standstill_.clear();
    return;
  }
  std::vector<std::int64_t> waits = waits_of(roll.answers);
  if (waits == standstill_) throw_standstill(roll);
  standstill_ = std::move(waits);
}

void RankWatch::throw_standstill(const RollCall& roll) const {
  std::string places;
  double seconds = roll.answers.front()->seconds;
  for (std::size_t i = 0; i < roll.ranks.size(); ++i) {
    const Position& position = *roll.answers[i];
    seconds = std::min(seconds, position.seconds);
    if (i >= kNamed) continue;
    const std::string where = position.team <= kMessage
                                  ? fmt::format("{} (rank {})", position.name, kMessage - position.team)
                                  : fmt::format("{} #{}", position.name, position.number);
    places += fmt::format("{}{} in {}", i == 0 ? "" : ", ", name_of(roll.ranks[i]), where);
  }
  if (roll.ranks.size() > kNamed) places += fmt::format(" and {} more", roll.ranks.size() - kNamed);
  throw CommError(
      "all ranks have waited for each other for {:.0f} s: {}. If these do not belong together it is a defect "
      "of this program, else the network lost a message; run the same command again",
      seconds, places);
}

}  // namespace gptq
