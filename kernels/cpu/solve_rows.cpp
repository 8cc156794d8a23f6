#include <omp.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/solve_panel.h"

namespace gptq {
namespace {

QuantizedRows make_rows(std::int64_t rows, const SolveColumns& columns) {
  QuantizedRows result;
  result.rows = rows;
  const auto count = static_cast<std::size_t>(rows);
  result.codes.resize(count * static_cast<std::size_t>(columns.n));
  result.scales.resize(count * static_cast<std::size_t>(columns.groups));
  result.zeros.resize(result.scales.size());
  for (auto* numbers : {&result.solve_loss, &result.output_error, &result.output_norm, &result.weight_error,
                        &result.weight_norm})
    numbers->resize(count);
  return result;
}

/// The parts' rows one behind the other, as floats.
HostTensor stacked(std::span<const Matrix> parts, std::int64_t n) {
  std::int64_t rows = 0;
  for (const Matrix& part : parts) {
    GPTQ_EXPECT(part.cols == n);
    rows += part.rows;
  }
  HostTensor all = make_tensor(DType::f32, {rows, n});
  float* to = all.matrix().row<float>(0);
  for (const Matrix& part : parts) {
    for (std::int64_t r = 0; r < part.rows; ++r, to += n) {
      switch (part.dtype) {
        case DType::f32:
          std::copy_n(part.row<float>(r), n, to);
          break;
        case DType::bf16:
          std::transform(part.row<bf16>(r), part.row<bf16>(r) + n, to, [](bf16 v) { return to_float(v); });
          break;
        case DType::f16:
          std::transform(part.row<f16>(r), part.row<f16>(r) + n, to, [](f16 v) { return to_float(v); });
          break;
        default:
          contract_violation("weights are of a floating type", __FILE__, __LINE__);
      }
    }
  }
  return all;
}

}  // namespace

QuantizedRows CpuKernels::solve_rows(std::span<const Matrix> parts, const SolveColumns& columns,
                                     const float* r, double damping, const SolveOptions& options) {
  const HostTensor weights = stacked(parts, columns.n);
  const Matrix w = weights.matrix();
  const std::span<const float> factor(r, r == nullptr ? 0 : static_cast<std::size_t>(columns.n * columns.n));
  const SolvePlan plan(columns, factor, damping, options);
  QuantizedRows result = make_rows(w.rows, columns);
  constexpr std::int64_t height = SolveOptions::kPanelRows;
  std::vector<std::unique_ptr<PanelSolver>> solvers(static_cast<std::size_t>(threads_));
  parallel_for(threads_, (w.rows + height - 1) / height, [&](std::int64_t panel) {
    auto& solver = solvers[static_cast<std::size_t>(omp_get_thread_num())];
    if (!solver) solver = std::make_unique<PanelSolver>(plan);
    solver->solve(w, panel * height, std::min(height, w.rows - panel * height), result);
  });
  return result;
}

}  // namespace gptq
