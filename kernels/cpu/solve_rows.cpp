#include <omp.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/solve_panel.h"

namespace gptq {

std::vector<QuantizedRows> CpuKernels::solve_rows(std::span<const RowsToSolve> parts,
                                                  const SolveColumns& columns, const float* r, double damping,
                                                  const SolveOptions& options) {
  std::vector<QuantizedRows> results;
  for (const RowsToSolve& part : parts) {
    GPTQ_EXPECT(part.weight.cols == columns.n && (part.scales == nullptr) == (part.zeros == nullptr));
    results.push_back(make_quantized_rows(part.weight.rows, columns));
  }
  const std::span<const float> factor(r, r == nullptr ? 0 : static_cast<std::size_t>(columns.n * columns.n));
  const SolvePlan plan(columns, factor, damping, options);
  const std::vector<RowPanel> panels = row_panels(parts);
  std::vector<std::unique_ptr<PanelSolver>> solvers(static_cast<std::size_t>(threads_));
  parallel_for(threads_, static_cast<std::int64_t>(panels.size()), [&](std::int64_t i) {
    const RowPanel& panel = panels[static_cast<std::size_t>(i)];
    auto& solver = solvers[static_cast<std::size_t>(omp_get_thread_num())];
    if (!solver) solver = std::make_unique<PanelSolver>(plan);
    solver->solve(parts[panel.part], panel, results[panel.part]);
  });
  return results;
}

}  // namespace gptq
