#include "io/trace_file.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace gptq {
namespace {

TEST(TraceFile, PutsTheClocksOfRanksOnOne) {
  // The second rank's clock is 100 s ahead; both events begin a second apart.
  const std::vector<RankTrace> ranks{{"a", 0, {{"forward", 5.0, 2.0, 3, TraceLane::work}}},
                                     {"b", 100, {{"write", 106.0, 0.5, -1, TraceLane::writing}}}};
  std::vector<RankTrace> carried;
  for (const RankTrace& rank : ranks) carried.push_back(rank_trace_from_json(to_json(rank)));
  const nlohmann::json trace = nlohmann::json::parse(chrome_trace(carried));
  std::vector<nlohmann::json> events;
  for (const nlohmann::json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "X") events.push_back(event);
  }
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].at("name"), "forward");
  EXPECT_EQ(events[0].at("pid"), 0);
  EXPECT_EQ(events[0].at("ts"), 0);
  EXPECT_EQ(events[0].at("dur"), 2e6);
  EXPECT_EQ(events[0].at("args").at("block"), 3);
  EXPECT_EQ(events[1].at("pid"), 1);
  EXPECT_EQ(events[1].at("tid"), static_cast<int>(TraceLane::writing));
  EXPECT_EQ(events[1].at("ts"), 1e6);
  EXPECT_FALSE(events[1].contains("args"));
}

TEST(TraceFile, ScopesAreEventsOfATraceAlone) {
  Trace trace;
  { const TraceScope nothing(nullptr, "read", 1, TraceLane::reading); }
  { const TraceScope scope(&trace, "read", 1, TraceLane::reading); }
  ASSERT_EQ(trace.events().size(), 1u);
  EXPECT_EQ(trace.events()[0].name, "read");
  EXPECT_GE(trace.events()[0].seconds, 0);
}

}  // namespace
}  // namespace gptq
