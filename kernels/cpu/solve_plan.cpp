#include "kernels/cpu/solve_plan.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/isa/isa.h"

namespace gptq {
namespace {

static_assert(SolveOptions::kColumnBatch == kSolveBatch && SolveOptions::kPanelRows == kSolveRows);

std::vector<float> candidates_of(const SolveOptions& options) {
  if (options.search == SolveOptions::Search::minmax) return {1.0f};
  std::vector<float> shrink;
  for (int i = 0; i == 0 || i < options.max_shrink * options.grid; ++i)
    shrink.push_back(static_cast<float>(1.0 - static_cast<double>(i) / options.grid));
  return shrink;
}

void check(const SolveColumns& columns, std::span<const float> r, const SolveOptions& options) {
  const auto n = static_cast<std::size_t>(columns.n);
  GPTQ_EXPECT(columns.n > 0 && columns.groups > 0);
  GPTQ_EXPECT(columns.order.size() == n && columns.group_of.size() == n);
  GPTQ_EXPECT(columns.weight.size() == n && columns.dead.size() == n);
  GPTQ_EXPECT(r.empty() || r.size() == n * n);
  GPTQ_EXPECT(options.bits >= 2 && options.bits <= 8 && options.grid >= 1 && options.max_shrink < 1);
}

}  // namespace

const SolveTable& solve_table() {
  static const SolveTable* const tables[] = {&isa_v2::solve_table, &isa_v3::solve_table,
                                             &isa_v4::solve_table};
  return *tables[isa_level()];
}

SolvePlan::SolvePlan(const SolveColumns& columns_, std::span<const float> r_, double damping_,
                     const SolveOptions& options_)
    : columns(columns_), r(r_.empty() ? nullptr : r_.data()), damping(damping_), options(options_) {
  check(columns, r_, options);
  max_code = (1 << options.bits) - 1;
  shrink = candidates_of(options);
  position.assign(static_cast<std::size_t>(columns.n), -1);
  group.resize(static_cast<std::size_t>(columns.n));
  for (std::int64_t p = 0; p < columns.n; ++p) {
    const std::int32_t column = columns.order[static_cast<std::size_t>(p)];
    GPTQ_EXPECT(column >= 0 && column < columns.n && position[static_cast<std::size_t>(column)] < 0);
    position[static_cast<std::size_t>(column)] = static_cast<std::int32_t>(p);
    group[static_cast<std::size_t>(p)] = columns.group_of[static_cast<std::size_t>(column)];
    GPTQ_EXPECT(group[static_cast<std::size_t>(p)] >= 0 &&
                group[static_cast<std::size_t>(p)] < columns.groups);
  }
  make_weights();
  if (options.refit_every_group)
    make_batches();
  else
    make_fixed_batches();
  if (r != nullptr) make_triangles();
}

void SolvePlan::make_weights() {
  weight.assign(static_cast<std::size_t>(columns.n), 1.0f);
  if (options.search != SolveOptions::Search::weighted) return;
  std::vector<float> largest(static_cast<std::size_t>(columns.groups), 0.0f);
  const auto weight_at = [&](std::size_t p) {
    return columns.weight[static_cast<std::size_t>(columns.order[p])];
  };
  for (std::size_t p = 0; p < weight.size(); ++p) {
    float& top = largest[static_cast<std::size_t>(group[p])];
    top = std::max(top, weight_at(p));
  }
  for (std::size_t p = 0; p < weight.size(); ++p) {
    const float top = largest[static_cast<std::size_t>(group[p])];
    if (top > 0) weight[p] = weight_at(p) / top;
  }
}

// A group starts at a segment's start. Narrow groups share a batch as long as they fit; a wide one begins a
// batch, and its scale is found from values solved ahead for all its batches.
void SolvePlan::make_batches() {
  std::vector<std::uint8_t> seen(static_cast<std::size_t>(columns.groups), 0);
  for (std::int64_t first = 0; first < columns.n;) {
    const std::int32_t own = group[static_cast<std::size_t>(first)];
    GPTQ_EXPECT(!seen[static_cast<std::size_t>(own)]);  // a group's columns are visited one after the other
    seen[static_cast<std::size_t>(own)] = 1;
    std::int64_t last = first + 1;
    while (last < columns.n && group[static_cast<std::size_t>(last)] == own) ++last;

    const std::int64_t count = last - first;
    if (batches.empty() || batches.back().count + count > kSolveBatch) batches.push_back({first, 0, {}});
    const std::int64_t head = std::min<std::int64_t>(count, kSolveBatch);
    batches.back().segments.push_back({first, head, count});
    batches.back().count += head;
    for (std::int64_t rest = first + head; rest < last; rest += kSolveBatch) {
      const std::int64_t part = std::min<std::int64_t>(last - rest, kSolveBatch);
      batches.push_back({rest, part, {{rest, part, 0}}});
    }
    if (count > kSolveBatch && first > 0) widest_search = std::max(widest_search, count);
    first = last;
  }
}

// Scales come from the original weights, before the first batch.
void SolvePlan::make_fixed_batches() {
  for (std::int64_t first = 0; first < columns.n; first += kSolveBatch) {
    const std::int64_t count = std::min<std::int64_t>(columns.n - first, kSolveBatch);
    batches.push_back({first, count, {{first, count, 0}}});
  }
  group_positions.resize(static_cast<std::size_t>(columns.groups));
  for (std::size_t column = 0; column < position.size(); ++column)
    group_positions[static_cast<std::size_t>(columns.group_of[column])].push_back(position[column]);
  for (const auto& positions : group_positions)
    widest_search = std::max(widest_search, static_cast<std::int64_t>(positions.size()));
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
