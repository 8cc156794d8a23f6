#include "tools/bench/kernel_bench_report.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "config/version.h"

namespace gptq::bench {
namespace {

struct LimitName {
  const char* key;
  const char* meaning;
  bool flops;
};

/// By the numbers of Limit.
constexpr LimitName kNames[kLimits] = {
    {"matrix", "linear() of a cube in the compute type, its fastest sample", true},
    {"fp32", "linear() of a cube in f32: the practical limit of single precision", true},
    {"memory", "a copy within the backend's memory, read + written, its fastest sample", false},
    {"upload", "pinned host memory to the device", false},
    {"download", "device to pinned host memory", false},
};

void line(const std::string& text) {
  std::puts(text.c_str());
  std::fflush(stdout);
}

std::string rate_text(double per_second, double unit) {
  return per_second > 0 ? fmt::format("{:.4g}", per_second / unit) : "";
}

std::string row(const std::string& operation, const std::string& shape, const std::string& time,
                const std::string& spread, const std::string& flops, const std::string& bytes,
                const std::string& share, const std::string& note) {
  return fmt::format("{:<17} {:<28} {:>10} {:>7} {:>8} {:>8} {:>6}  {}", operation, shape, time, spread,
                     flops, bytes, share, note);
}

std::string note_of(const Result& result, const Limits& limits, bool explained) {
  const Cost& cost = result.what->cost;
  std::vector<std::string> notes;
  if (cost.floor.size() > 1 && result.floor_seconds > 0)
    notes.push_back(fmt::format("{:.2f} x its floor of {:.4g} ms", result.times.median / result.floor_seconds,
                                result.floor_seconds * 1e3));
  for (const Aside& aside : cost.asides) {
    const double limit = limits.of(aside.demand.limit);
    if (limit > 0)
      notes.push_back(fmt::format("{}: {:.4g} ms", aside.what, aside.demand.amount / limit * 1e3));
  }
  if (explained) notes.push_back(cost.counted);
  return fmt::format("{}", fmt::join(notes, "; "));
}

const char* name_of(Result::State state) {
  return state == Result::State::measured ? "measured"
         : state == Result::State::failed ? "failed"
                                          : "skipped";
}

nlohmann::ordered_json to_json(const Result& result, const Limits& limits) {
  const Cost& cost = result.what->cost;
  nlohmann::ordered_json json{{"operation", result.what->operation},
                              {"shape", result.what->shape},
                              {"state", name_of(result.state)},
                              {"counted", cost.counted},
                              {"flops", cost.flops},
                              {"bytes", cost.bytes}};
  if (result.state == Result::State::failed) json["problem"] = result.problem;
  if (result.state != Result::State::measured) return json;
  json["seconds"] = {{"median", result.times.median},
                     {"fastest", result.times.fastest},
                     {"slowest", result.times.slowest},
                     {"samples", result.times.samples},
                     {"launches", result.times.launches}};
  if (cost.flops > 0) json["flops_per_second"] = result.flops_per_second();
  if (cost.bytes > 0) json["bytes_per_second"] = result.bytes_per_second();
  if (result.floor_seconds > 0) {
    json["floor_seconds"] = result.floor_seconds;
    json["share_of_limit"] = result.share();
  }
  for (const Aside& aside : cost.asides) {
    const double limit = limits.of(aside.demand.limit);
    if (limit > 0) json["asides_seconds"][aside.what] = aside.demand.amount / limit;
  }
  return json;
}

}  // namespace

void print_head(const Bench& bench, const Limits& limits) {
  line(fmt::format("gptq-hpc {} kernel_bench: {}", version(), bench.backend.describe()));
  line(fmt::format("shapes of {}, compute type {}", bench.shapes.name, gptq::name_of(bench.dtype)));
  for (int i = 0; i < kLimits; ++i) {
    const double limit = limits.per_second[i];
    if (limit <= 0) continue;
    const std::string figure = kNames[i].flops ? fmt::format("{:8.4g} TFLOP/s", limit * 1e-12)
                                               : fmt::format("{:8.4g} GB/s   ", limit * 1e-9);
    line(fmt::format("limit {:<9} {}  {}", kNames[i].key, figure, kNames[i].meaning));
  }
  line("");
  line(row("operation", "shape", "ms", "spread", "TFLOP/s", "GB/s", "share", "remarks; what is counted"));
}

void print_result(const Result& result, const Limits& limits, bool explained) {
  const std::string& operation = result.what->operation;
  const std::string& shape = result.what->shape;
  if (result.state == Result::State::failed)
    return line(row(operation, shape, "FAILED", "", "", "", "", result.problem));
  if (result.state == Result::State::skipped)
    return line(row(operation, shape, "skipped", "", "", "", "", "no time left (--seconds)"));
  const Times& times = result.times;
  line(row(operation, shape, fmt::format("{:.4g}", times.median * 1e3),
           fmt::format("{:.0f} %", (times.slowest - times.fastest) / times.median * 100),
           rate_text(result.flops_per_second(), 1e12), rate_text(result.bytes_per_second(), 1e9),
           result.floor_seconds > 0 ? fmt::format("{:.0f} %", result.share() * 100) : "",
           note_of(result, limits, explained)));
}

std::string to_json(const Bench& bench, const Limits& limits, const std::vector<Result>& results,
                    const std::string& command, double seconds) {
  nlohmann::ordered_json json{{"format", "gptq-hpc kernel_bench 1"},
                              {"version", version()},
                              {"build", build_features()},
                              {"utc", utc_now()},
                              {"command", command},
                              {"seconds", seconds},
                              {"backend", bench.backend.name()},
                              {"machine", bench.backend.describe()},
                              {"dtype", gptq::name_of(bench.dtype)},
                              {"shapes", bench.shapes.name},
                              {"peak_memory_bytes", bench.backend.peak_memory_bytes()}};
  for (int i = 0; i < kLimits; ++i)
    if (limits.per_second[i] > 0)
      json["limits"][kNames[i].key] = {
          {kNames[i].flops ? "flops_per_second" : "bytes_per_second", limits.per_second[i]},
          {"meaning", kNames[i].meaning}};
  json["results"] = nlohmann::ordered_json::array();
  for (const Result& result : results) json["results"].push_back(to_json(result, limits));
  return json.dump(1) + "\n";
}

}  // namespace gptq::bench
