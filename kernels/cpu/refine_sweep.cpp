#include <algorithm>

#include "kernels/cpu/refine_panel.h"

namespace gptq {
namespace {

constexpr std::int64_t kRows = kSolveRows;
constexpr std::int64_t kBatch = kSolveBatch;

/// Is any step of so many columns not 0?
bool any(const float* steps, std::int64_t columns) {
  return std::any_of(steps, steps + columns * kRows, [](float s) { return s != 0; });
}

}  // namespace

/// Once over all columns; false if nothing changed. After the last sweep nobody needs the gradient.
bool PanelRefiner::sweep(bool last) {
  const bool rescale = plan_.refine.refit_scales;
  bool changed = false;
  if (rescale && plan_.scattered)
    for (std::size_t group = 0; group < plan_.positions.size(); ++group) changed |= rescale_ahead(group);
  for (std::size_t index = 0; index < plan_.schedule.batches.size(); ++index) {
    const SolveBatch& batch = plan_.schedule.batches[index];
    for (const SolveSegment& segment : batch.segments)
      if (rescale && segment.search_count > segment.count)
        changed |= rescale_ahead(
            static_cast<std::size_t>(plan_.schedule.group[static_cast<std::size_t>(segment.first)]));
    changed |= visit_batch(index, last);
  }
  return changed;
}

void PanelRefiner::find_units(std::int64_t position, float* units) const {
  const std::int64_t group = plan_.schedule.group[static_cast<std::size_t>(position)] * kRows;
  loops_.units(codes_.data() + position * kRows, zero_.data() + group, units);
}

void PanelRefiner::find_step(std::int64_t group, const RowSums& gain, const RowSums& curve, float* step) {
  float of_gain[kRows], of_curve[kRows];
  for (std::size_t r = 0; r < kRows; ++r) {
    of_gain[r] = static_cast<float>(gain[r]);
    of_curve[r] = static_cast<float>(curve[r]);
  }
  loops_.rescale({of_gain, of_curve, scale_.data() + group * kRows, step});
}

/// The scale of a group that lies in several batches: its step reaches the gradient of all columns at once.
bool PanelRefiner::rescale_ahead(std::size_t group) {
  const std::vector<std::int32_t>& positions = plan_.positions[group];
  const auto width = static_cast<std::int64_t>(positions.size());
  const std::int64_t n = plan_.n();
  for (std::int64_t k = 0; k < width; ++k)
    find_units(positions[static_cast<std::size_t>(k)], units_.data() + k * kRows);

  // product = units · H[group, :], by the group's part of each row of H.
  for (std::int64_t to = 0; to < n; to += kBatch) {
    const std::int64_t columns = std::min(kBatch, n - to);
    for (std::int64_t from = 0; from < width; from += kBatch) {
      const std::int64_t depth = std::min(kBatch, width - from);
      const auto [part, stride] = part_of_h(to, columns, positions.data() + from, depth);
      loops_.multiply_rows(units_.data() + from * kRows, part, stride, depth, columns, from > 0,
                           product_.data() + to * kRows);
    }
  }
  RowSums gain{}, curve{};
  for (std::int64_t k = 0; k < width; ++k) {
    const std::int64_t place = positions[static_cast<std::size_t>(k)] * kRows;
    loops_.add_products(units_.data() + k * kRows, gradient_.data() + place, 1, gain.data());
    loops_.add_products(units_.data() + k * kRows, product_.data() + place, 1, curve.data());
  }
  float step[kRows];
  find_step(static_cast<std::int64_t>(group), gain, curve, step);
  loops_.subtract_scaled(product_.data(), step, n, gradient_.data());
  return any(step, 1);
}

/// Rows [first, first + count) and the columns at `places` of H, and the floats between its rows: a part of H
/// itself where the places are neighbours, else a copy.
std::pair<const float*, std::int64_t> PanelRefiner::part_of_h(std::int64_t first, std::int64_t count,
                                                              const std::int32_t* places,
                                                              std::int64_t width) {
  if (places[width - 1] - places[0] == width - 1) return {plan_.row_of_h(first) + places[0], plan_.n()};
  for (std::int64_t j = 0; j < count; ++j)
    for (std::int64_t k = 0; k < width; ++k)
      block_[static_cast<std::size_t>(j * kBatch + k)] = plan_.row_of_h(first + j)[places[k]];
  return {block_.data(), kBatch};
}

/// The scale of a group that is this segment; leaves its units.
void PanelRefiner::rescale_here(const SolveSegment& segment, std::size_t batch, float* step) {
  const std::int64_t offset = segment.first - plan_.schedule.batches[batch].first;
  for (std::int64_t k = 0; k < segment.count; ++k) find_units(segment.first + k, units_.data() + k * kRows);
  loops_.multiply_rows(units_.data(), plan_.blocks[batch].data() + offset * kBatch + offset, kBatch,
                       segment.count, segment.count, false, product_.data());
  RowSums gain{}, curve{};
  float* const values = values_.data() + offset * kRows;
  loops_.add_products(units_.data(), values, segment.count, gain.data());
  loops_.add_products(units_.data(), product_.data(), segment.count, curve.data());
  find_step(plan_.schedule.group[static_cast<std::size_t>(segment.first)], gain, curve, step);
  loops_.subtract_scaled(product_.data(), step, segment.count, values);
}

void PanelRefiner::descend(const SolveSegment& segment, std::size_t index) {
  const SolveBatch& batch = plan_.schedule.batches[index];
  DescendTask task{};
  task.first = segment.first - batch.first;
  task.last = task.first + segment.count;
  task.g = values_.data();
  task.h = plan_.blocks[index].data();
  task.group = plan_.schedule.group.data() + batch.first;
  task.scale = scale_.data();
  task.zero = zero_.data();
  task.max_code = plan_.schedule.max_code;
  task.codes = codes_.data() + batch.first * kRows;
  task.step = steps_.data();
  loops_.descend(task);
}

bool PanelRefiner::visit_batch(std::size_t index, bool last) {
  const SolveBatch& batch = plan_.schedule.batches[index];
  std::copy_n(gradient_.data() + batch.first * kRows, batch.count * kRows, values_.data());
  bool changed = false;
  for (const SolveSegment& segment : batch.segments) {
    const std::int64_t offset = segment.first - batch.first;
    if (offset > 0)
      table_.propagate(values_.data(), steps_.data(), plan_.blocks[index].data(), offset,
                       offset + segment.count, 0, offset);
    const bool whole_group = segment.search_count > 0 && segment.search_count == segment.count;
    float of_scale[kRows] = {};
    if (whole_group && plan_.refine.refit_scales) rescale_here(segment, index, of_scale);
    descend(segment, index);
    changed |= any(of_scale, 1) || any(steps_.data() + offset * kRows, segment.count);
    // The new scale has moved the values of the old codes, too. (steps −= units · −step)
    if (whole_group && plan_.refine.refit_scales) {
      for (float& s : of_scale) s = -s;
      loops_.subtract_scaled(units_.data(), of_scale, segment.count, steps_.data() + offset * kRows);
    }
  }
  if (changed) add_to_gradient(batch, last ? batch.first + batch.count : 0);
  return changed;
}

/// gradient −= steps · H[batch, :], from a column on.
void PanelRefiner::add_to_gradient(const SolveBatch& batch, std::int64_t first_column) {
  const std::int64_t n = plan_.n();
  for (std::int64_t i = 0; i < batch.count * kRows; ++i)
    steps_[static_cast<std::size_t>(i)] = -steps_[static_cast<std::size_t>(i)];
  for (std::int64_t to = first_column; to < n; to += kBatch) {
    const std::int64_t columns = std::min(kBatch, n - to);
    loops_.multiply_rows(steps_.data(), plan_.row_of_h(to) + batch.first, n, batch.count, columns, true,
                         gradient_.data() + to * kRows);
  }
}

}  // namespace gptq
