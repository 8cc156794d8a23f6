#include "kernels/cpu/solve_plan.h"

#include "base/error.h"
#include "kernels/cpu/isa/isa.h"

namespace gptq {
namespace {

static_assert(SolveOptions::kColumnBatch == kSolveBatch && SolveOptions::kPanelRows == kSolveRows);

}  // namespace

const SolveTable& solve_table() {
  static const SolveTable* const tables[] = {&isa_v2::solve_table, &isa_v3::solve_table,
                                             &isa_v4::solve_table};
  return *tables[isa_level()];
}

SolvePlan::SolvePlan(const SolveColumns& columns_, std::span<const float> r_, double damping_,
                     const SolveOptions& options_)
    : SolveSchedule(columns_, options_), r(r_.empty() ? nullptr : r_.data()), damping(damping_) {
  const auto n = static_cast<std::size_t>(columns.n);
  GPTQ_EXPECT(r_.empty() || r_.size() == n * n);
  if (r != nullptr) make_triangles();
}

void SolvePlan::make_triangles() {
  const SolveTable& table = solve_table();
  std::vector<double> work(kSolveBatch * kSolveBatch);
  std::vector<float> upper(kSolveBatch * kSolveBatch);
  for (const SolveBatch& batch : batches) {
    const long n = batch.count;
    const float* block = r + batch.first * columns.n + batch.first;
    const auto tiled = static_cast<std::size_t>((n + 3) / 4 * 4 * n);
    SolveTriangle triangle;
    triangle.inverse.assign(static_cast<std::size_t>(n * kSolveBatch), 0.0f);
    triangle.packed_inverse.resize(tiled);
    triangle.packed.resize(tiled);
    triangle.pivot.resize(static_cast<std::size_t>(n));
    table.invert(block, columns.n, n, work.data(), triangle.inverse.data());
    for (long i = 0; i < n; ++i) {
      for (long j = 0; j < n; ++j)
        upper[static_cast<std::size_t>(i * n + j)] =
            triangle.inverse[static_cast<std::size_t>(j * kSolveBatch + i)];
      triangle.pivot[static_cast<std::size_t>(i)] = block[i * columns.n + i];
    }
    table.pack(upper.data(), n, n, n, triangle.packed_inverse.data());
    table.pack(block, columns.n, n, n, triangle.packed.data());
    triangles.push_back(std::move(triangle));
  }
}

}  // namespace gptq
