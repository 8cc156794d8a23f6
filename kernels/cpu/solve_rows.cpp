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

}  // namespace

QuantizedRows CpuKernels::solve_rows(const Matrix& w, const SolveColumns& columns, std::span<const float> r,
                                     double damping, const SolveOptions& options) {
  GPTQ_EXPECT(w.dtype == DType::f32 && w.cols == columns.n);
  const SolvePlan plan(columns, r, damping, options);
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
