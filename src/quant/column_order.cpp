#include "quant/column_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace gptq {
namespace {

std::int64_t width_of_group(std::int64_t n, const QuantizationSection& options) {
  GPTQ_EXPECT(n > 0 && (options.group_size == -1 || options.group_size >= 1));
  return options.group_size == -1 ? n : std::min(options.group_size, n);
}

using Iterator = std::vector<std::int32_t>::iterator;

void sort_by_falling_diagonal(Iterator begin, Iterator end, std::span<const double> diagonal) {
  std::stable_sort(begin, end, [&](std::int32_t a, std::int32_t b) {
    return diagonal[static_cast<std::size_t>(a)] > diagonal[static_cast<std::size_t>(b)];
  });
}

/// Columns sorted inside each group; whole groups by their largest diagonal; a ragged last group stays last.
std::vector<std::int32_t> group_aware_order(std::span<const double> diagonal, std::int64_t width) {
  const auto n = static_cast<std::int64_t>(diagonal.size());
  std::vector<std::int32_t> columns(diagonal.size());
  std::iota(columns.begin(), columns.end(), 0);
  for (std::int64_t first = 0; first < n; first += width)
    sort_by_falling_diagonal(columns.begin() + first, columns.begin() + std::min(first + width, n), diagonal);

  std::vector<std::int64_t> starts;  // of the whole groups
  for (std::int64_t first = 0; first + width <= n; first += width) starts.push_back(first);
  const auto largest = [&](std::int64_t start) {
    return diagonal[static_cast<std::size_t>(columns[static_cast<std::size_t>(start)])];
  };
  std::stable_sort(starts.begin(), starts.end(),
                   [&](std::int64_t a, std::int64_t b) { return largest(a) > largest(b); });
  if (n % width != 0) starts.push_back(n - n % width);

  std::vector<std::int32_t> order;
  order.reserve(diagonal.size());
  for (const std::int64_t start : starts)
    order.insert(order.end(), columns.begin() + start, columns.begin() + std::min(start + width, n));
  return order;
}

}  // namespace

SolveColumns natural_columns(std::int64_t n, const QuantizationSection& options) {
  const std::int64_t width = width_of_group(n, options);
  SolveColumns columns;
  columns.n = n;
  columns.groups = (n + width - 1) / width;
  columns.order.resize(static_cast<std::size_t>(n));
  std::iota(columns.order.begin(), columns.order.end(), 0);
  columns.group_of.resize(static_cast<std::size_t>(n));
  for (std::int64_t c = 0; c < n; ++c)
    columns.group_of[static_cast<std::size_t>(c)] = static_cast<std::int32_t>(c / width);
  columns.weight.assign(static_cast<std::size_t>(n), 1.0f);
  columns.dead.assign(static_cast<std::size_t>(n), 0);
  return columns;
}

SolveColumns arrange_columns(std::span<const double> diagonal, const QuantizationSection& options) {
  GPTQ_EXPECT(!(options.desc_act && options.act_group_aware));
  const auto n = static_cast<std::int64_t>(diagonal.size());
  SolveColumns columns = natural_columns(n, options);
  const std::int64_t width = width_of_group(n, options);
  const double largest = diagonal.empty() ? 0 : *std::max_element(diagonal.begin(), diagonal.end());
  for (std::size_t c = 0; c < diagonal.size(); ++c) {
    GPTQ_EXPECT(std::isfinite(diagonal[c]) && diagonal[c] >= 0);
    columns.weight[c] = largest == 0 ? 1.0f : static_cast<float>(diagonal[c] / largest);
    columns.dead[c] = diagonal[c] == 0;
  }
  if (options.desc_act) {
    sort_by_falling_diagonal(columns.order.begin(), columns.order.end(), diagonal);
    // With static groups a column keeps the group of its place in the layer; else groups form as columns are
    // visited.
    if (!options.static_groups)
      for (std::int64_t p = 0; p < n; ++p)
        columns.group_of[static_cast<std::size_t>(columns.order[static_cast<std::size_t>(p)])] =
            static_cast<std::int32_t>(p / width);
  } else if (options.act_group_aware) {
    columns.order = group_aware_order(diagonal, width);
  }
  return columns;
}

}  // namespace gptq
