// Every call that changes a file, and every collective, as a point to strike a running job at.
#include <algorithm>
#include <cstdio>
#include <tuple>

#include "restart/fault_bench.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;

constexpr int kRanks = 2;
constexpr std::size_t kSampledPoints = 36;
constexpr std::size_t kFullPoints = 320;

/// Which files are struck.
enum class Place { checkpoint, output, nowhere };

struct Point {
  Place place{};
  FaultKind kind{};
  int rank = 0;
  std::uint64_t call = 0;
};

const std::vector<FaultMode>& modes_of(FaultKind kind) {
  using enum FaultMode;
  static const std::vector<FaultMode> kWrite{torn, eio, kill, power, enospc, kill_after, full, part};
  static const std::vector<FaultMode> kClaim{enospc, kill, kill_after};
  static const std::vector<FaultMode> kSync{eio, power, kill, kill_after};
  static const std::vector<FaultMode> kRename{kill, kill_after, power, eio};
  static const std::vector<FaultMode> kCreate{full, kill, eio, kill_after};
  static const std::vector<FaultMode> kRemove{kill, eio, kill_after};
  static const std::vector<FaultMode> kRead{eio, kill};
  static const std::vector<FaultMode> kCollective{kill, eio, kill_after};
  switch (kind) {
    case FaultKind::write:
      return kWrite;
    case FaultKind::claim:
      return kClaim;
    case FaultKind::sync:
      return kSync;
    case FaultKind::rename:
      return kRename;
    case FaultKind::open:
      return kCreate;
    case FaultKind::unlink:
      return kRemove;
    case FaultKind::read:
      return kRead;
    case FaultKind::mpi:
      break;
  }
  return kCollective;
}

Fault watch(Place place, const fs::path& output) {
  Fault fault;
  if (place == Place::checkpoint) fault.below = output / "checkpoint";
  if (place == Place::output) fault.below = output;
  if (place == Place::output) fault.except = output / "checkpoint";
  if (place == Place::nowhere) fault.below = output / "no such directory";
  return fault;
}

/// All points of an undisturbed run.
std::vector<Point> find_points(FaultBench& bench) {
  std::vector<Point> points;
  for (const Place place : {Place::checkpoint, Place::output, Place::nowhere}) {
    const fs::path output = bench.new_output();
    JobProcess job(bench.options().programs, bench.arguments(output), kRanks, watch(place, output),
                   bench.directory());
    job.wait();
    for (int rank = 0; rank < kRanks; ++rank) {
      for (int kind = 0; kind < kFaultKinds; ++kind) {
        const bool collective = static_cast<FaultKind>(kind) == FaultKind::mpi;
        if (collective != (place == Place::nowhere)) continue;
        const std::uint64_t calls =
            job.page().ranks[static_cast<std::size_t>(rank)].calls[static_cast<std::size_t>(kind)];
        for (std::uint64_t call = 1; call <= calls; ++call) {
          points.push_back({place, static_cast<FaultKind>(kind), rank, call});
        }
      }
    }
  }
  return points;
}

using Group = std::tuple<Place, FaultKind, int>;

std::vector<Point> evenly(const std::vector<Point>& points, std::size_t wanted) {
  if (points.size() <= wanted) return points;
  std::vector<Point> some;
  for (std::size_t i = 0; i < wanted; ++i) some.push_back(points[(2 * i + 1) * points.size() / (2 * wanted)]);
  return some;
}

/// Most calls are writes and reads; so each kind gets the same share, and what one cannot use goes to the
/// others.
std::vector<Point> sample(const std::vector<Point>& all, std::size_t wanted) {
  std::map<Group, std::vector<Point>> groups;
  for (const Point& point : all) groups[{point.place, point.kind, point.rank}].push_back(point);
  std::vector<std::vector<Point>> by_size;
  for (auto& [group, points] : groups) by_size.push_back(std::move(points));
  std::sort(by_size.begin(), by_size.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
  std::vector<Point> some;
  for (std::size_t i = 0; i < by_size.size(); ++i) {
    const std::vector<Point> chosen = evenly(by_size[i], (wanted - some.size()) / (by_size.size() - i));
    some.insert(some.end(), chosen.begin(), chosen.end());
  }
  return some;
}

bool kills(FaultMode mode) {
  using enum FaultMode;
  return mode == kill || mode == torn || mode == kill_after || mode == power;
}

/// A checkpoint that cannot be written, or a write that takes several steps, is no reason to fail.
bool must_go_on(const Point& point, FaultMode mode) {
  return !kills(mode) && (point.place == Place::checkpoint || mode == FaultMode::part);
}

std::string row_name(const Point& point, FaultMode mode) {
  const std::string kind = kFaultKindNames[static_cast<std::size_t>(point.kind)];
  const std::string blow = kFaultModeNames[static_cast<std::size_t>(mode)];
  const std::string place = point.place == Place::checkpoint ? " checkpoint"
                            : point.place == Place::output   ? " output"
                                                             : "";
  return kind + place + ": " + (point.place == Place::nowhere && mode == FaultMode::eio ? "error" : blow);
}

void strike(FaultBench& bench, const Point& point, FaultMode mode) {
  const fs::path output = bench.new_output();
  Fault fault = watch(point.place, output);
  fault.kind = point.kind;
  fault.mode = mode;
  fault.rank = point.rank;
  fault.call = point.call;
  const Attempt struck = bench.run(output, kRanks, fault);
  Verdict verdict{bench.offence(struck, output), false};
  if (verdict.wrong.empty() && struck.fired && must_go_on(point, mode) && struck.exit_code != 0) {
    verdict.wrong = "the job ended with code " + std::to_string(struck.exit_code) + ":\n" + struck.output;
  }
  if (verdict.wrong.empty() && struck.fired && kills(mode) && struck.exit_code == 0) {
    verdict.wrong = "a rank was killed, but the job ended with code 0";
  }
  if (verdict.wrong.empty()) verdict = bench.bring_to_end(struck, output);
  bench.count(row_name(point, mode), struck.fired, verdict,
              "call " + std::to_string(point.call) + " of rank " + std::to_string(point.rank) + " (" +
                  struck.where + ")");
}

}  // namespace

void strike_points(FaultBench& bench) {
  const std::vector<Point> all = find_points(bench);
  const std::vector<Point> points = sample(all, bench.options().full ? kFullPoints : kSampledPoints);
  std::printf("%zu points in an undisturbed run on %d ranks, %zu of them struck\n", all.size(), kRanks,
              points.size());
  std::map<std::pair<Place, FaultKind>, std::size_t> turns;
  for (const Point& point : points) {
    const std::vector<FaultMode>& modes = modes_of(point.kind);
    strike(bench, point, modes[turns[{point.place, point.kind}]++ % modes.size()]);
  }
  bench.note("Points: " + std::to_string(points.size()) + " of the " + std::to_string(all.size()) +
             " calls that an undisturbed run makes.");
}

void hang_ranks(FaultBench& bench) {
  const int hangs = bench.options().full ? 8 : 2;
  for (int i = 0; i < hangs; ++i) {
    const fs::path output = bench.new_output();
    Fault fault = watch(Place::nowhere, output);
    fault.kind = FaultKind::mpi;
    fault.mode = FaultMode::hang;
    fault.rank = i % kRanks;
    fault.call = static_cast<std::uint64_t>(10 + 8 * i);
    const Attempt struck = bench.run(output, kRanks, fault, {"--set", "comm.timeout=2"});
    Verdict verdict{bench.offence(struck, output), false};
    const std::string name = "rank " + std::to_string(fault.rank);
    if (verdict.wrong.empty() && (struck.exit_code == 0 || !struck.says(name))) {
      verdict.wrong =
          "code " + std::to_string(struck.exit_code) + ", and no word of " + name + ":\n" + struck.output;
    }
    if (verdict.wrong.empty()) verdict = bench.bring_to_end(struck, output);
    bench.count("collective: hang", struck.fired, verdict,
                "call " + std::to_string(fault.call) + " of " + name);
  }
}

}  // namespace gptq::test
