#include <omp.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/solve_panel.h"

namespace gptq {
namespace {

HostTensor as_floats(const Matrix& weight) {
  HostTensor floats = make_tensor(DType::f32, {weight.rows, weight.cols});
  auto* to = reinterpret_cast<float*>(floats.storage.data());
  const auto convert_row = [&](const auto* row) {
    std::transform(row, row + weight.cols, to, [](auto value) { return to_float(value); });
  };
  for (std::int64_t r = 0; r < weight.rows; ++r, to += weight.cols) {
    switch (weight.dtype) {
      case DType::f32:
        convert_row(weight.row<float>(r));
        break;
      case DType::bf16:
        convert_row(weight.row<bf16>(r));
        break;
      case DType::f16:
        convert_row(weight.row<f16>(r));
        break;
      default:
        contract_violation("weights are of a floating type", __FILE__, __LINE__);
    }
  }
  return floats;
}

/// At most kPanelRows rows of one part.
struct Panel {
  std::size_t part;
  std::int64_t first, count;
};

std::vector<Panel> panels_of(std::span<const RowsToSolve> parts) {
  constexpr std::int64_t height = SolveOptions::kPanelRows;
  std::vector<Panel> panels;
  for (std::size_t part = 0; part < parts.size(); ++part) {
    const std::int64_t rows = parts[part].weight.rows;
    for (std::int64_t first = 0; first < rows; first += height)
      panels.push_back({part, first, std::min(height, rows - first)});
  }
  return panels;
}

}  // namespace

std::vector<QuantizedRows> CpuKernels::solve_rows(std::span<const RowsToSolve> parts,
                                                  const SolveColumns& columns, const float* r, double damping,
                                                  const SolveOptions& options) {
  std::vector<HostTensor> weights;
  std::vector<QuantizedRows> results;
  for (const RowsToSolve& part : parts) {
    GPTQ_EXPECT(part.weight.cols == columns.n);
    weights.push_back(as_floats(part.weight));
    results.push_back(make_quantized_rows(part.weight.rows, columns));
  }
  const std::span<const float> factor(r, r == nullptr ? 0 : static_cast<std::size_t>(columns.n * columns.n));
  const SolvePlan plan(columns, factor, damping, options);
  const std::vector<Panel> panels = panels_of(parts);
  std::vector<std::unique_ptr<PanelSolver>> solvers(static_cast<std::size_t>(threads_));
  parallel_for(threads_, static_cast<std::int64_t>(panels.size()), [&](std::int64_t i) {
    const Panel& panel = panels[static_cast<std::size_t>(i)];
    auto& solver = solvers[static_cast<std::size_t>(omp_get_thread_num())];
    if (!solver) solver = std::make_unique<PanelSolver>(plan);
    const HostTensor& weight = weights[panel.part];
    const std::int64_t n = columns.n;
    solver->solve({weight.storage.data(), DType::f32, weight.shape[0], n, n}, panel.first, panel.count,
                  results[panel.part]);
  });
  return results;
}

}  // namespace gptq
