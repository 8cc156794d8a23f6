#pragma once

#include "comm/rank_watch.h"

namespace gptq {

/// Messages among RankWatches.
enum WatchTag : int { kLate = 1, kCall, kHere, kGoOn };

/// In the place of a team: the rank does not wait.
inline constexpr RankWatch::TeamId kBusy = -1;
/// A wait for a message of rank r has the team kMessage - r: no two ranks are in one such team.
inline constexpr RankWatch::TeamId kMessage = -2;

}  // namespace gptq
