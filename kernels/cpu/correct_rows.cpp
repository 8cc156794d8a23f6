#include <omp.h>

#include <memory>

#include "base/error.h"
#include "kernels/cpu/correct_panel.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace gptq {

std::vector<HostTensor> CpuKernels::correct_rows(std::span<const RowsToSolve> parts,
                                                 const SolveColumns& columns, const float* m, const float* r,
                                                 double alpha) {
  std::vector<HostTensor> results;
  for (const RowsToSolve& part : parts) {
    GPTQ_EXPECT(part.weight.cols == columns.n);
    results.push_back(make_tensor(DType::f32, {part.weight.rows, columns.n}));
  }
  const CorrectPlan plan(columns, m, r, alpha);
  const std::vector<RowPanel> panels = row_panels(parts);
  std::vector<std::unique_ptr<PanelCorrector>> correctors(static_cast<std::size_t>(threads_));
  parallel_for(threads_, static_cast<std::int64_t>(panels.size()), [&](std::int64_t i) {
    const RowPanel& panel = panels[static_cast<std::size_t>(i)];
    auto& corrector = correctors[static_cast<std::size_t>(omp_get_thread_num())];
    if (!corrector) corrector = std::make_unique<PanelCorrector>(plan);
    corrector->correct(parts[panel.part], panel,
                       reinterpret_cast<float*>(results[panel.part].storage.data()));
  });
  return results;
}

}  // namespace gptq
