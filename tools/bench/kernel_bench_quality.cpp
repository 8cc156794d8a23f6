#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "tools/bench/kernel_bench_data.h"
#include "tools/bench/kernel_bench_hessian.h"

/// What goes beyond plain GPTQ: cross sums, correction, refinement.
namespace gptq::bench {
namespace {

double square(std::int64_t n) {
  return static_cast<double>(n) * static_cast<double>(n);
}

SolveOptions solve_options() {
  SolveOptions options;
  options.bits = 4;
  options.search = SolveOptions::Search::weighted;
  return options;
}

/// One layer with its factor, the full Hessian and a matrix in the place of the streams' difference.
struct Stage {
  DeviceMatrix weight;  ///< host memory
  std::unique_ptr<LinearWeights> prepared;
  std::vector<RowsToSolve> parts;
  StageFactor factor;
  DeviceMatrix h, m;
  std::vector<QuantizedRows> solved, refined;
  std::vector<HostTensor> corrected;
};

std::shared_ptr<Stage> make_stage(const Bench& bench, std::int64_t rows, std::int64_t n) {
  auto stage = std::make_shared<Stage>();
  stage->weight = random_host_matrix(bench, bench.dtype, rows, n, 0.02f);
  stage->prepared = bench.kernels().prepare_linear(stage->weight.matrix, {}, bench.dtype);
  stage->parts = {{stage->weight.matrix, stage->prepared.get()}};
  const HessianSum sum = filled_sum(bench, n);
  stage->factor = factor_hessian(bench.backend, sum, options_of(bench));
  if (stage->factor.fallback) throw NumericalError("the Hessian of random inputs could not be factored");
  stage->h = poisoned_matrix(bench, DType::f32, n, n);
  const SolveColumns& columns = stage->factor.columns;
  bench.kernels().expand_hessian(
      {n, sum.values(), sum.exponents, sum.scale(), columns.order, columns.dead, 0},
      stage->h.buffer.as<float>());
  stage->m = random_matrix(bench, DType::f32, n, n, 0.01f);
  stage->solved = bench.kernels().solve_rows(stage->parts, columns, stage->factor.factor(),
                                             stage->factor.damping, solve_options());
  return stage;
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

Case refine(const Bench& bench, std::int64_t rows, std::int64_t n, int sweeps) {
  const double flops = 2 * static_cast<double>(rows) * square(n) * (sweeps + 2);
  return {"refine",
          fmt::format("{} sweeps {}", sweeps, shape_text({rows, n})),
          {flops, 0, {{Limit::fp32, flops}}, "flops 2 rows n^2 (sweeps + 2)", {}},
          [&bench, rows, n, sweeps] {
            auto stage = make_stage(bench, rows, n);
            Prepared prepared;
            prepared.run = [&bench, stage, sweeps] {
              stage->refined = stage->solved;
              bench.kernels().refine_rows(stage->parts, stage->factor.columns, stage->h.buffer.as<float>(),
                                          solve_options(), {sweeps, true}, stage->refined);
            };
            prepared.problem = [stage] {
              const double before = sum(stage->solved[0].output_error),
                           after = sum(stage->refined[0].output_error);
              return after > 0.5 * before && after < before
                         ? std::string()
                         : fmt::format("the output error went from {:.4g} to {:.4g}", before, after);
            };
            return prepared;
          }};
}

Case correct(const Bench& bench, std::int64_t rows, std::int64_t n) {
  const double flops = 4 * static_cast<double>(rows) * square(n);
  return {"correct",
          shape_text({rows, n}),
          {flops, 0, {{Limit::fp32, flops}}, "flops 4 rows n^2", {}},
          [&bench, rows, n] {
            auto stage = make_stage(bench, rows, n);
            Prepared prepared;
            prepared.run = [&bench, stage] {
              stage->corrected.clear();
              stage->corrected =
                  bench.kernels().correct_rows(stage->parts, stage->factor.columns,
                                               stage->m.buffer.as<float>(), stage->factor.factor(), 0.5);
            };
            prepared.problem = [stage, rows, n] {
              const auto* const values = reinterpret_cast<const float*>(stage->corrected[0].storage.data());
              const bool good = std::all_of(values, values + rows * n,
                                            [](float value) { return value > -10 && value < 10; });
              return std::string(good ? "" : "a corrected weight is out of all bounds");
            };
            return prepared;
          }};
}

Case cross(const Bench& bench, std::int64_t tokens, std::int64_t n) {
  const double flops = 2 * square(n) * static_cast<double>(tokens);
  return {"cross",
          shape_text({tokens, n}),
          {flops,
           0,
           {{Limit::matrix, flops}},
           "flops 2 n^2 tokens",
           {{"sum read and written, 16 B n^2", {Limit::memory, 16 * square(n)}}}},
          [&bench, tokens, n] {
            struct Data {
              DeviceMatrix reference, x;
              std::vector<int> exponents;
              DeviceBuffer sum;
            };
            const auto count = static_cast<std::size_t>(n * n);
            auto data = std::make_shared<Data>(Data{random_matrix(bench, bench.dtype, tokens, n),
                                                    random_matrix(bench, bench.dtype, tokens, n),
                                                    std::vector<int>(static_cast<std::size_t>(n), 12),
                                                    bench.backend.allocate(count * sizeof(std::int64_t))});
            bench.backend.set_zero(data->sum.data(), data->sum.size());
            Prepared prepared;
            prepared.run = [&bench, data] {
              bench.kernels().accumulate_cross(data->reference.matrix, data->exponents, data->x.matrix,
                                               data->exponents, data->sum.as<std::int64_t>());
            };
            prepared.problem = [&bench, data, tokens, n]() -> std::string {
              // Both factors hold the same values here: the diagonal is about the number of tokens.
              std::vector<std::int64_t> row(static_cast<std::size_t>(n));
              bench.backend.download(row.data(), data->sum.data(), row.size() * sizeof(std::int64_t));
              const double corner = static_cast<double>(row[0]) / (1 << 24) / static_cast<double>(tokens);
              return corner > 0.2 && corner < 5 ? ""
                                                : fmt::format("the first entry is {:.4g} a token", corner);
            };
            return prepared;
          }};
}

Case expand(const Bench& bench, std::int64_t n) {
  const double bytes = square(n) * (4 + 4);
  return {"expand_hessian",
          shape_text({n, n}),
          {0, bytes, {{Limit::memory, bytes}}, "half of the sum read, floats written", {}},
          [&bench, n] {
            struct Data {
              HessianSum sum;
              SolveColumns columns;
              DeviceMatrix h;
            };
            auto data = std::make_shared<Data>(
                Data{filled_sum(bench, n), {}, poisoned_matrix(bench, DType::f32, n, n)});
            data->columns = arrange_columns(diagonal_of(bench, data->sum), options_of(bench));
            Prepared prepared;
            prepared.run = [&bench, data, n] {
              const HessianSum& sum = data->sum;
              bench.kernels().expand_hessian(
                  {n, sum.values(), sum.exponents, sum.scale(), data->columns.order, data->columns.dead, 0},
                  data->h.buffer.as<float>());
            };
            prepared.outputs = {data->h.matrix};
            return prepared;
          }};
}

}  // namespace

std::vector<Case> quality_cases(const Bench& bench) {
  const Shapes& s = bench.shapes;
  std::vector<Case> cases;
  const std::int64_t own[] = {s.hidden, s.intermediate};
  for (const std::int64_t n : own) cases.push_back(cross(bench, s.tokens.back(), n));
  for (const std::int64_t n : own) cases.push_back(expand(bench, n));
  cases.push_back(correct(bench, s.intermediate, s.hidden));
  cases.push_back(correct(bench, s.hidden, s.intermediate));
  for (const int sweeps : {1, 3}) cases.push_back(refine(bench, s.intermediate, s.hidden, sweeps));
  cases.push_back(refine(bench, s.hidden, s.intermediate, 3));
  return cases;
}

}  // namespace gptq::bench
