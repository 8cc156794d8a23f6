#include <omp.h>

#include <memory>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/refine_panel.h"

namespace gptq {

void CpuKernels::refine_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns, const float* h,
                             const SolveOptions& options, const RefineOptions& refine,
                             std::span<QuantizedRows> rows) {
  GPTQ_EXPECT(rows.size() == parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto count = static_cast<std::size_t>(parts[i].weight.rows);
    GPTQ_EXPECT(parts[i].weight.cols == columns.n && rows[i].rows == parts[i].weight.rows);
    GPTQ_EXPECT(rows[i].codes.size() == count * static_cast<std::size_t>(columns.n));
    GPTQ_EXPECT(rows[i].scales.size() == count * static_cast<std::size_t>(columns.groups));
    GPTQ_EXPECT(rows[i].zeros.size() == rows[i].scales.size());
    GPTQ_EXPECT(rows[i].solve_error.size() == count && rows[i].output_error.size() == count &&
                rows[i].weight_error.size() == count);
  }
  const RefinePlan plan(columns, h, options, refine);
  const std::vector<RowPanel> panels = row_panels(parts);
  std::vector<std::unique_ptr<PanelRefiner>> refiners(static_cast<std::size_t>(threads_));
  parallel_for(threads_, static_cast<std::int64_t>(panels.size()), [&](std::int64_t i) {
    const RowPanel& panel = panels[static_cast<std::size_t>(i)];
    auto& refiner = refiners[static_cast<std::size_t>(omp_get_thread_num())];
    if (!refiner) refiner = std::make_unique<PanelRefiner>(plan);
    refiner->refine(parts[panel.part].weight, panel, rows[panel.part]);
  });
}

}  // namespace gptq
