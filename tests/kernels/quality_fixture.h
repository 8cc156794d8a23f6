#pragma once

#include "kernels/solve_fixture.h"
#include "support/reference_quality.h"

/// Layers with a Hessian, and in the order of their solve, for the suites of correction and refinement.
namespace gptq::solve_test {

/// One layer, its sum and factor, and H in visiting order in the backend's memory.
struct Stage {
  Layer layer;
  HessianSum sum;
  StageFactor factor;
  DeviceBuffer h;

  FactorInput input(double damping) const {
    return {sum.n,  sum.values(), sum.exponents, sum.scale(), factor.columns.order, factor.columns.dead,
            damping};
  }
};

inline Stage make_stage(Backend& backend, Layer layer, const QuantizationSection& section) {
  const std::int64_t n = layer.weight.cols;
  Stage stage{std::move(layer), {}, {}, {}};
  stage.sum = test::hessian_sum_from(backend, stage.layer.hessian.values, n);
  stage.factor = factor_hessian(backend, stage.sum, section);
  stage.h = test::poisoned(backend, factor_bytes(n));
  backend.kernels().expand_hessian(stage.input(0), stage.h.as<float>());
  return stage;
}

/// Columns that no token ever used.
inline void kill_columns(Layer& layer, const std::vector<std::int64_t>& dead) {
  for (const std::int64_t column : dead)
    for (std::int64_t c = 0; c < layer.hessian.rows; ++c)
      layer.hessian.at(column, c) = layer.hessian.at(c, column) = 0;
}

/// Rows [first, first + rows.rows) of the layer, refined from what is given.
inline QuantizedRows refine(Backend& backend, const Stage& stage, QuantizedRows rows,
                            const SolveOptions& options, const RefineOptions& how, std::int64_t first = 0) {
  const HostTensor weight = as_tensor(stage.layer.weight);
  const RowsToSolve part{weight.matrix().rows_from(first, rows.rows)};
  backend.kernels().refine_rows({&part, 1}, stage.factor.columns, stage.h.as<float>(), options, how,
                                {&rows, 1});
  return rows;
}

inline QuantizedRows solve_stage(Backend& backend, const Stage& stage, const SolveOptions& options) {
  const HostTensor weight = as_tensor(stage.layer.weight);
  const RowsToSolve part{weight.matrix()};
  return backend.kernels().solve_rows({&part, 1}, stage.factor.columns, stage.factor.factor(),
                                      stage.factor.damping, options)[0];
}

inline std::vector<double> losses(const Stage& stage, const QuantizedRows& rows) {
  return reference::exact_losses(stage.layer.weight, stage.layer.hessian, rows, stage.factor.columns);
}

}  // namespace gptq::solve_test
