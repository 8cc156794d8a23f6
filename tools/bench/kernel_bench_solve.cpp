#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "tools/bench/kernel_bench_data.h"
#include "tools/bench/kernel_bench_hessian.h"

/// Solve and round to nearest.
namespace gptq::bench {
namespace {

SolveOptions solve_options() {
  SolveOptions options;
  options.bits = 4;
  options.search = SolveOptions::Search::weighted;
  return options;
}

/// The factor of the last number of columns asked for: cases with the same one stand in a row.
class LastFactor {
 public:
  std::shared_ptr<const StageFactor> get(const Bench& bench, std::int64_t n) {
    if (factor_ != nullptr && factor_->columns.n == n) return factor_;
    factor_.reset();
    factor_ = std::make_shared<const StageFactor>(
        factor_hessian(bench.backend, filled_sum(bench, n), options_of(bench)));
    if (factor_->fallback) throw NumericalError("the Hessian of random inputs could not be factored");
    return factor_;
  }

 private:
  std::shared_ptr<const StageFactor> factor_;
};

enum class Rows {
  on_host,   ///< copied to the device by the call
  prepared,  ///< the forward pass has brought them there already, as in the job
};

/// Layers of out_features rows that are solved together; n columns.
struct Layers {
  std::vector<std::int64_t> out_features;
  std::int64_t n;

  std::int64_t rows() const {
    return std::accumulate(out_features.begin(), out_features.end(), std::int64_t{0});
  }
};

struct SolveData {
  std::vector<DeviceMatrix> weights;  ///< host memory
  std::vector<std::unique_ptr<LinearWeights>> prepared;
  std::vector<RowsToSolve> parts;
  std::shared_ptr<const StageFactor> factor;  ///< null: round to nearest
  SolveColumns columns;
  std::vector<QuantizedRows> results;
};

std::shared_ptr<SolveData> make_solve_data(const Bench& bench, const Layers& layers, Rows where) {
  auto data = std::make_shared<SolveData>();
  for (const std::int64_t rows : layers.out_features) {
    const float scale = 0.02f + 0.001f * static_cast<float>(data->weights.size());
    data->weights.push_back(random_host_matrix(bench, bench.dtype, rows, layers.n, scale));
    RowsToSolve part{data->weights.back().matrix};
    if (where == Rows::prepared) {
      data->prepared.push_back(bench.kernels().prepare_linear(part.weight, {}, bench.dtype));
      part.prepared = data->prepared.back().get();
    }
    data->parts.push_back(part);
  }
  return data;
}

/// Codes of all kinds, and errors that 4 bits can give.
std::string rows_problem(const std::vector<QuantizedRows>& results, const Layers& layers, bool solved) {
  if (results.size() != layers.out_features.size()) return "not one result a layer";
  for (std::size_t i = 0; i < results.size(); ++i) {
    const QuantizedRows& rows = results[i];
    if (rows.rows != layers.out_features[i] ||
        rows.codes.size() != static_cast<std::size_t>(rows.rows * layers.n))
      return "a result of the wrong size";
    const auto [least, most] = std::minmax_element(rows.codes.end() - layers.n, rows.codes.end());
    if (*most > 15 || *most - *least < 8) return "the last row's codes are not those of 4 bits";
    const auto sum = [](const std::vector<double>& values) {
      return std::accumulate(values.begin(), values.end(), 0.0);
    };
    const double error = sum(rows.weight_error) / sum(rows.weight_norm);
    if (!(error > 0 && error < 0.1)) return fmt::format("relative weight error {:.3g}", error);
    const double output = sum(rows.output_error) / sum(rows.output_norm);
    if (solved && !(output > 0 && output < 0.1)) return fmt::format("relative output error {:.3g}", output);
  }
  return "";
}

Cost solve_cost(const Bench& bench, const Layers& layers, Rows where, bool solved) {
  const bool shared = bench.backend.shares_host_memory();
  const auto elements = static_cast<double>(layers.rows()) * static_cast<double>(layers.n);
  Cost cost;
  cost.bytes = elements * (bench.element() + 1);
  cost.floor = {{Limit::memory, cost.bytes}};
  cost.counted = "bytes of rows read and codes written";
  if (solved) {
    cost.flops = elements * static_cast<double>(layers.n);
    cost.floor.push_back({Limit::fp32, cost.flops});
    cost.counted = "flops rows n^2; " + cost.counted;
  }
  if (!shared && where == Rows::on_host)
    cost.asides.push_back({"rows to the device", {Limit::upload, elements * bench.element()}});
  if (!shared) cost.asides.push_back({"codes to the host", {Limit::download, elements}});
  return cost;
}

/// last: null: round to nearest.
Case solve(const Bench& bench, const std::string& what, const Layers& layers, Rows where,
           const std::shared_ptr<LastFactor>& last) {
  const bool solved = last != nullptr;
  std::string shape = fmt::format("{} {}", what, shape_text({layers.rows(), layers.n}));
  if (where == Rows::on_host && !bench.backend.shares_host_memory()) shape += " from host";
  return {solved ? "solve" : "rtn", shape, solve_cost(bench, layers, where, solved),
          [&bench, layers, where, last] {
            auto data = make_solve_data(bench, layers, where);
            if (last != nullptr) {
              data->factor = last->get(bench, layers.n);
              data->columns = data->factor->columns;
            } else {
              data->columns = natural_columns(layers.n, options_of(bench));
            }
            Prepared prepared;
            prepared.run = [&bench, data] {
              const float* const r = data->factor == nullptr ? nullptr : data->factor->factor();
              const double damping = data->factor == nullptr ? 0 : data->factor->damping;
              data->results.clear();
              data->results =
                  bench.kernels().solve_rows(data->parts, data->columns, r, damping, solve_options());
            };
            prepared.problem = [data, layers] {
              return rows_problem(data->results, layers, data->factor != nullptr);
            };
            return prepared;
          }};
}

}  // namespace

std::vector<Case> solve_cases(const Bench& bench) {
  const Shapes& s = bench.shapes;
  const Layers qkv{{s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim}, s.hidden};
  const Layers one{{s.intermediate}, s.hidden};
  const Layers gate_up{{s.intermediate, s.intermediate}, s.hidden};
  const Layers down{{s.hidden}, s.intermediate};
  const auto last = std::make_shared<LastFactor>();
  std::vector<Case> cases;
  cases.push_back(solve(bench, "one layer", one, Rows::prepared, last));
  cases.push_back(solve(bench, "q,k,v", qkv, Rows::prepared, last));
  cases.push_back(solve(bench, "gate,up", gate_up, Rows::prepared, last));
  if (!bench.backend.shares_host_memory())
    cases.push_back(solve(bench, "gate,up", gate_up, Rows::on_host, last));
  cases.push_back(solve(bench, "down", down, Rows::prepared, last));
  cases.push_back(solve(bench, "gate,up", gate_up, Rows::on_host, nullptr));
  return cases;
}

}  // namespace gptq::bench
