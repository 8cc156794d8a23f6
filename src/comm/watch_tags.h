#pragma once

#include "comm/rank_watch.h"

namespace gptq {

/// Messages among RankWatches: I am late; where are you; here; go on waiting; I have left that team.
enum WatchTag : int { kLate = 1, kCall, kHere, kGoOn, kLeft };

/// In the place of a team: the rank does not wait.
inline constexpr RankWatch::TeamId kBusy = -1;
/// In the place of a team: the rank waits for a message from or to rank kMessage - team.
inline constexpr RankWatch::TeamId kMessage = -2;

}  // namespace gptq
