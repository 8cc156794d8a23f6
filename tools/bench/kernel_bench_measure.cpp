#include "tools/bench/kernel_bench_measure.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "base/error.h"
#include "tools/bench/kernel_bench_data.h"

namespace gptq::bench {
namespace {

double seconds_of(Backend& backend, const std::function<void()>& run, int launches) {
  backend.synchronize();
  const Stopwatch watch;
  for (int i = 0; i < launches; ++i) run();
  backend.synchronize();
  return watch.seconds() / launches;
}

/// Names the case for the vendor's profiler.
class Range {
 public:
  Range(Backend& backend, const std::string& name) : backend_(backend), name_(name) {
    backend_.enter_range(name_.c_str());
  }
  ~Range() { backend_.leave_range(); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  Backend& backend_;
  std::string name_;
};

/// The first run, between checks: poison must be seen before it, results after it.
std::string first_run_problem(const Bench& bench, const Prepared& prepared) {
  for (const Matrix& output : prepared.outputs)
    if (bench.kernels().all_finite(output)) return "all_finite() does not see poison";
  prepared.run();
  bench.backend.synchronize();
  for (const Matrix& output : prepared.outputs) {
    if (!bench.kernels().all_finite(output)) return "results are missing or not finite";
    const std::vector<float> tail = tail_of(bench, output);
    if (std::all_of(tail.begin(), tail.end(), [](float value) { return value == 0; }))
      return "results are zero";
  }
  return prepared.problem ? prepared.problem() : "";
}

double cube_rate(const Bench& bench, DType dtype, const Effort& effort) {
  const std::int64_t side = bench.shapes.cube;
  const DeviceMatrix host = random_host_matrix(bench, dtype, side, side, 0.02f);
  const auto weights = bench.kernels().prepare_linear(host.matrix, {}, dtype);
  const DeviceMatrix x = random_matrix(bench, dtype, side, side);
  const DeviceMatrix y = poisoned_matrix(bench, dtype, side, side);
  const Batch batch = batch_of(bench, side);
  const Times times = measure(
      bench.backend, [&] { bench.kernels().linear(batch, x.matrix, *weights, y.matrix, false); }, effort);
  return 2 * std::pow(static_cast<double>(side), 3) / times.fastest;
}

/// By as many threads as the kernels use, where the backend's memory is the host's.
void copy_all(const Bench& bench, const DeviceBuffer& to, const DeviceBuffer& from) {
  if (!bench.backend.shares_host_memory()) return bench.backend.copy(to.data(), from.data(), to.size());
  const auto threads = static_cast<std::size_t>(bench.backend.threads());
  const std::size_t part = (to.size() / threads + 4095) / 4096 * 4096;
  std::vector<std::thread> running;
  for (std::size_t first = 0; first < to.size(); first += part) {
    running.emplace_back([&, first] {
      bench.backend.copy(to.data() + first, from.data() + first, std::min(part, to.size() - first));
    });
  }
  for (std::thread& thread : running) thread.join();
}

double copy_rate(const Bench& bench, const Effort& effort) {
  const auto floats = static_cast<std::int64_t>(bench.shapes.copy_bytes / 4);
  const DeviceMatrix from = random_matrix(bench, DType::f32, 1, floats);
  const DeviceMatrix to = poisoned_matrix(bench, DType::f32, 1, floats);
  const Times times = measure(
      bench.backend, [&] { copy_all(bench, to.buffer, from.buffer); }, effort);
  return 2 * static_cast<double>(to.buffer.size()) / times.fastest;
}

double link_rate(const Bench& bench, bool up, const Effort& effort) {
  const auto floats = static_cast<std::int64_t>(bench.shapes.copy_bytes / 4);
  const DeviceMatrix device = random_matrix(bench, DType::f32, 1, floats);
  const DeviceMatrix host = random_host_matrix(bench, DType::f32, 1, floats, 2);
  const Times times = measure(
      bench.backend,
      [&] {
        std::byte* const from = up ? host.buffer.data() : device.buffer.data();
        std::byte* const to = up ? device.buffer.data() : host.buffer.data();
        bench.backend.copy_in_queue(up ? Queue::load : Queue::store, to, from, device.buffer.size());
      },
      effort);
  return static_cast<double>(device.buffer.size()) / times.fastest;
}

double floor_of(const Cost& cost, const Limits& limits) {
  double floor = 0;
  for (const Demand& demand : cost.floor)
    if (limits.of(demand.limit) > 0) floor = std::max(floor, demand.amount / limits.of(demand.limit));
  return floor;
}

}  // namespace

Times measure(Backend& backend, const std::function<void()>& run, const Effort& effort) {
  const double once = std::max(seconds_of(backend, run, 1), 1e-9);
  Times times;
  times.launches =
      static_cast<int>(std::clamp(std::ceil(effort.sample_seconds / once), 1.0, 1.0 * effort.most_launches));
  std::vector<double> samples;
  const Stopwatch watch;
  for (int i = 0; i < effort.most_samples; ++i) {
    if (i >= effort.fewest_samples && watch.seconds() > effort.case_seconds) break;
    samples.push_back(seconds_of(backend, run, times.launches));
  }
  std::sort(samples.begin(), samples.end());
  const std::size_t half = samples.size() / 2;
  times.median = samples.size() % 2 == 1 ? samples[half] : (samples[half - 1] + samples[half]) / 2;
  times.fastest = samples.front();
  times.slowest = samples.back();
  times.samples = static_cast<int>(samples.size());
  return times;
}

Limits measure_limits(const Bench& bench, const Effort& effort) {
  Limits limits;
  const auto set = [&](Limit limit, double value) { limits.per_second[static_cast<int>(limit)] = value; };
  set(Limit::fp32, cube_rate(bench, DType::f32, effort));
  set(Limit::matrix,
      bench.dtype == DType::f32 ? limits.of(Limit::fp32) : cube_rate(bench, bench.dtype, effort));
  set(Limit::memory, copy_rate(bench, effort));
  if (bench.backend.shares_host_memory()) return limits;
  set(Limit::upload, link_rate(bench, true, effort));
  set(Limit::download, link_rate(bench, false, effort));
  return limits;
}

Result skipped(const Case& what) {
  Result result;
  result.what = &what;
  return result;
}

Result run_case(const Bench& bench, const Case& what, const Limits& limits, const Effort& effort) {
  Result result = skipped(what);
  result.state = Result::State::failed;
  try {
    const Range range(bench.backend, what.operation + " " + what.shape);
    const Prepared prepared = what.prepare();
    bench.backend.synchronize();
    result.problem = first_run_problem(bench, prepared);
    if (!result.problem.empty()) return result;
    result.times = measure(bench.backend, prepared.run, effort);
    result.floor_seconds = floor_of(what.cost, limits);
    result.state = Result::State::measured;
  } catch (const std::exception& error) {
    result.problem = error.what();
  }
  return result;
}

}  // namespace gptq::bench
