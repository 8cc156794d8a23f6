#include "kernels/solve_schedule.h"

#include <algorithm>

#include "base/error.h"

namespace gptq {
namespace {

constexpr std::int64_t kBatch = SolveOptions::kColumnBatch;

std::vector<float> candidates_of(const SolveOptions& options) {
  if (options.search == SolveOptions::Search::minmax) return {1.0f};
  std::vector<float> shrink;
  for (int i = 0; i == 0 || i < options.max_shrink * options.grid; ++i)
    shrink.insert(shrink.end(), judges_two_zeros(options) ? 2 : 1,
                  static_cast<float>(1.0 - static_cast<double>(i) / options.grid));
  return shrink;
}

void check(const SolveColumns& columns, const SolveOptions& options) {
  const auto n = static_cast<std::size_t>(columns.n);
  GPTQ_EXPECT(columns.n > 0 && columns.groups > 0);
  GPTQ_EXPECT(columns.order.size() == n && columns.group_of.size() == n);
  GPTQ_EXPECT(columns.weight.size() == n && columns.dead.size() == n);
  GPTQ_EXPECT(options.bits >= 2 && options.bits <= 8 && options.grid >= 1 && options.max_shrink < 1);
  GPTQ_EXPECT(!options.trits || options.bits == 2);
}

}  // namespace

QuantizedRows make_quantized_rows(std::int64_t rows, const SolveColumns& columns) {
  QuantizedRows result;
  result.rows = rows;
  const auto count = static_cast<std::size_t>(rows);
  result.codes.resize(count * static_cast<std::size_t>(columns.n));
  result.scales.resize(count * static_cast<std::size_t>(columns.groups));
  result.zeros.resize(result.scales.size());
  for (auto* numbers : {&result.solve_loss, &result.solve_error, &result.output_error, &result.output_norm,
                        &result.weight_error, &result.weight_norm})
    numbers->resize(count);
  return result;
}

SolveSchedule::SolveSchedule(const SolveColumns& columns_, const SolveOptions& options_)
    : columns(columns_), options(options_) {
  check(columns, options);
  max_code = options.max_code();
  two_zeros = judges_two_zeros(options);
  shrink = candidates_of(options);
  find_positions();
  make_weights();
  if (options.refit_every_group)
    make_batches();
  else
    make_fixed_batches();
}

void SolveSchedule::find_positions() {
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
}

void SolveSchedule::make_weights() {
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
void SolveSchedule::make_batches() {
  std::vector<std::uint8_t> seen(static_cast<std::size_t>(columns.groups), 0);
  for (std::int64_t first = 0; first < columns.n;) {
    const std::int32_t own = group[static_cast<std::size_t>(first)];
    GPTQ_EXPECT(!seen[static_cast<std::size_t>(own)]);  // a group's columns are visited one after the other
    seen[static_cast<std::size_t>(own)] = 1;
    std::int64_t last = first + 1;
    while (last < columns.n && group[static_cast<std::size_t>(last)] == own) ++last;

    const std::int64_t count = last - first;
    if (batches.empty() || batches.back().count + count > kBatch) batches.push_back({first, 0, {}});
    const std::int64_t head = std::min<std::int64_t>(count, kBatch);
    batches.back().segments.push_back({first, head, count});
    batches.back().count += head;
    for (std::int64_t rest = first + head; rest < last; rest += kBatch) {
      const std::int64_t part = std::min<std::int64_t>(last - rest, kBatch);
      batches.push_back({rest, part, {{rest, part, 0}}});
    }
    if (count > kBatch && first > 0) widest_search = std::max(widest_search, count);
    first = last;
  }
}

// Scales come from the original weights, before the first batch.
void SolveSchedule::make_fixed_batches() {
  for (std::int64_t first = 0; first < columns.n; first += kBatch) {
    const std::int64_t count = std::min<std::int64_t>(columns.n - first, kBatch);
    batches.push_back({first, count, {{first, count, 0}}});
  }
  group_positions.resize(static_cast<std::size_t>(columns.groups));
  for (std::size_t column = 0; column < position.size(); ++column)
    group_positions[static_cast<std::size_t>(columns.group_of[column])].push_back(position[column]);
  for (const auto& positions : group_positions)
    widest_search = std::max(widest_search, static_cast<std::int64_t>(positions.size()));
}

}  // namespace gptq
