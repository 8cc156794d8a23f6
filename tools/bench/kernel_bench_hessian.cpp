#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "tools/bench/kernel_bench_data.h"
#include "tools/bench/kernel_bench_hessian.h"

/// Hessian sums and their factor.
namespace gptq::bench {
namespace {

constexpr std::int64_t kMostRuns = 1 << 15;  // sums have room for so many chunks

double square(std::int64_t n) {
  return static_cast<double>(n) * static_cast<double>(n);
}

/// An input chunk and a sum of nothing that takes it kMostRuns times.
struct Chunk {
  DeviceMatrix x;
  HessianSum sum;
};

Chunk make_chunk(const Bench& bench, std::int64_t tokens, std::int64_t n) {
  Chunk chunk{random_matrix(bench, bench.dtype, tokens, n), {}};
  const DeviceBuffer maximum = bench.backend.allocate(static_cast<std::size_t>(n) * sizeof(float));
  bench.backend.set_zero(maximum.data(), maximum.size());
  bench.kernels().column_max(chunk.x.matrix, maximum.as<float>());
  std::vector<float> host(static_cast<std::size_t>(n));
  bench.backend.download(host.data(), maximum.data(), maximum.size());
  chunk.sum = make_hessian_sum(bench.backend, host, tokens * kMostRuns);
  chunk.sum.tokens = tokens;  // what is in it after one run: makes scale() right
  return chunk;
}

/// After one chunk of values of deviation 1, H_ii is 2 on the average.
std::string diagonal_problem(const std::vector<double>& diagonal) {
  if (!std::all_of(diagonal.begin(), diagonal.end(), [](double value) { return value > 0; }))
    return "a diagonal entry is not positive";
  const double mean =
      std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(diagonal.size());
  return std::abs(mean / 2 - 1) < 0.1 ? "" : fmt::format("the diagonal's mean is {:.4g}, not about 2", mean);
}

Case hessian(const Bench& bench, std::int64_t tokens, std::int64_t n) {
  const double flops = square(n) * static_cast<double>(tokens);
  const Demand sum_traffic{Limit::memory, 16 * square(n) / 2};
  return {"hessian",
          shape_text({tokens, n}),
          {flops,
           0,
           {{Limit::matrix, flops}},
           "flops n^2 tokens (upper triangle)",
           {{"sum read and written, 16 B n^2/2", sum_traffic}}},
          [&bench, tokens, n] {
            auto chunk = std::make_shared<Chunk>(make_chunk(bench, tokens, n));
            return Prepared{[&bench, chunk] {
                              accumulate_hessian(bench.kernels(), chunk->x.matrix, chunk->sum.exponents,
                                                 chunk->sum.values());
                            },
                            {},
                            [&bench, chunk] { return diagonal_problem(diagonal_of(bench, chunk->sum)); }};
          }};
}

Case column_max(const Bench& bench, std::int64_t tokens, std::int64_t n) {
  const double bytes = static_cast<double>(tokens) * static_cast<double>(n) * bench.element();
  return {"column_max",
          shape_text({tokens, n}),
          {0, bytes, {{Limit::memory, bytes}}, "x read", {}},
          [&bench, tokens, n] {
            struct Data {
              DeviceMatrix x;
              DeviceBuffer maximum;
            };
            auto data = std::make_shared<Data>(
                Data{random_matrix(bench, bench.dtype, tokens, n),
                     bench.backend.allocate(static_cast<std::size_t>(n) * sizeof(float))});
            bench.backend.set_zero(data->maximum.data(), data->maximum.size());
            Prepared prepared;
            prepared.run = [&bench, data] {
              bench.kernels().column_max(data->x.matrix, data->maximum.as<float>());
            };
            prepared.problem = [&bench, data, n] {
              std::vector<float> maximum(static_cast<std::size_t>(n));
              bench.backend.download(maximum.data(), data->maximum.data(), data->maximum.size());
              const bool good = std::all_of(maximum.begin(), maximum.end(),
                                            [](float value) { return value > 0 && std::isfinite(value); });
              return good ? "" : "a maximum is not positive and finite";
            };
            return prepared;
          }};
}

Case hessian_diagonal(const Bench& bench, std::int64_t n) {
  return {"hessian_diagonal",
          fmt::format("{}", n),
          {0, 8.0 * static_cast<double>(n), {}, "entries read; its time is latency", {}},
          [&bench, n] {
            struct Data {
              HessianSum sum;
              std::vector<double> diagonal;
            };
            auto data = std::make_shared<Data>(Data{filled_sum(bench, n), {}});
            return Prepared{[&bench, data] { data->diagonal = diagonal_of(bench, data->sum); },
                            {},
                            [data] { return diagonal_problem(data->diagonal); }};
          }};
}

Case factor(const Bench& bench, std::int64_t n) {
  return {
      "factor",
      shape_text({n, n}),
      {square(n) * static_cast<double>(n) / 3,
       0,
       {},
       "flops n^3/3, in double precision: none of the limits is its own",
       {}},
      [&bench, n] {
        struct Data {
          HessianSum sum;
          SolveColumns columns;
          DeviceMatrix r;
          bool good = false;
        };
        auto data =
            std::make_shared<Data>(Data{filled_sum(bench, n), {}, poisoned_matrix(bench, DType::f32, n, n)});
        data->columns = arrange_columns(diagonal_of(bench, data->sum), options_of(bench));
        Prepared prepared;
        prepared.run = [&bench, data, n] {
          const HessianSum& sum = data->sum;
          const double damping = 0.05 * 2;  // of a mean diagonal of 2
          data->good = bench.kernels().factor(
              {n, sum.values(), sum.exponents, sum.scale(), data->columns.order, data->columns.dead, damping},
              data->r.buffer.as<float>());
        };
        prepared.outputs = {data->r.matrix};
        prepared.problem = [data] { return data->good ? "" : "not positive definite"; };
        return prepared;
      }};
}

}  // namespace

QuantizationSection options_of(const Bench& bench) {
  QuantizationSection options;
  options.bits = 4;
  options.group_size = bench.shapes.group_size;
  options.scale_search = "weighted";
  return options;
}

std::vector<double> diagonal_of(const Bench& bench, const HessianSum& sum) {
  std::vector<double> diagonal(static_cast<std::size_t>(sum.n), NAN);
  bench.kernels().hessian_diagonal(sum.values(), sum.exponents, sum.scale(), diagonal);
  return diagonal;
}

HessianSum filled_sum(const Bench& bench, std::int64_t n) {
  Chunk chunk = make_chunk(bench, n + 256, n);
  accumulate_hessian(bench.kernels(), chunk.x.matrix, chunk.sum.exponents, chunk.sum.values());
  return std::move(chunk.sum);
}

std::vector<Case> hessian_cases(const Bench& bench) {
  const Shapes& s = bench.shapes;
  std::vector<Case> cases;
  for (const std::int64_t n : s.widths)
    for (const std::int64_t tokens : s.tokens) cases.push_back(hessian(bench, tokens, n));
  const std::int64_t own[] = {s.hidden, s.intermediate};
  for (const std::int64_t n : own) cases.push_back(column_max(bench, s.tokens.back(), n));
  for (const std::int64_t n : own) cases.push_back(hessian_diagonal(bench, n));
  for (const std::int64_t n : own) cases.push_back(factor(bench, n));
  return cases;
}

}  // namespace gptq::bench
