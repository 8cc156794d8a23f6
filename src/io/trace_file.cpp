#include "io/trace_file.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

namespace gptq {
namespace {

using nlohmann::ordered_json;

constexpr const char* kLaneNames[] = {"work", "reading", "writing"};
constexpr double kMicroseconds = 1e6;

ordered_json named(const char* what, std::size_t rank, int lane, const std::string& name) {
  return {{"name", what}, {"ph", "M"}, {"pid", rank}, {"tid", lane}, {"args", {{"name", name}}}};
}

}  // namespace

std::string chrome_trace(const std::vector<RankTrace>& ranks) {
  double start = std::numeric_limits<double>::infinity();
  for (const RankTrace& rank : ranks) {
    for (const TraceEvent& event : rank.events) start = std::min(start, event.begin - rank.clock_ahead);
  }
  ordered_json events = ordered_json::array();
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    events.push_back(
        named("process_name", rank, 0, "rank " + std::to_string(rank) + " on " + ranks[rank].host));
    events.push_back({{"name", "process_sort_index"},
                      {"ph", "M"},
                      {"pid", rank},
                      {"tid", 0},
                      {"args", {{"sort_index", rank}}}});
    for (int lane = 0; lane < 3; ++lane) events.push_back(named("thread_name", rank, lane, kLaneNames[lane]));
    for (const TraceEvent& event : ranks[rank].events) {
      ordered_json json{{"name", event.name},
                        {"ph", "X"},
                        {"pid", rank},
                        {"tid", event.lane},
                        {"ts", (event.begin - ranks[rank].clock_ahead - start) * kMicroseconds},
                        {"dur", event.seconds * kMicroseconds}};
      if (event.block >= 0) json["args"] = {{"block", event.block}};
      events.push_back(std::move(json));
    }
  }
  return ordered_json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() + "\n";
}

std::string to_json(const RankTrace& trace) {
  ordered_json json{
      {"host", trace.host}, {"clock_ahead", trace.clock_ahead}, {"events", ordered_json::array()}};
  for (const TraceEvent& event : trace.events)
    json["events"].push_back({event.name, event.begin, event.seconds, event.block, event.lane});
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

RankTrace rank_trace_from_json(const std::string& text) {
  const ordered_json json = ordered_json::parse(text);
  RankTrace trace{json.at("host"), json.at("clock_ahead"), {}};
  for (const ordered_json& event : json.at("events"))
    trace.events.push_back({event.at(0), event.at(1), event.at(2), event.at(3), event.at(4)});
  return trace;
}

}  // namespace gptq
