#include "quant/tensor_scale.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "base/error.h"

namespace gptq {
namespace {

constexpr std::int64_t kRowsTogether = 64;  // a unit of work; its sums are added in order

struct Range {
  float low = 0;
  float high = 0;
};

struct Grid {
  float scale = 1;
  float zero = 0;
};

/// Rows of a weight tensor as floats.
class Rows {
 public:
  explicit Rows(const Matrix& weight) : weight_(weight) {}

  std::int64_t parts() const { return (weight_.rows + kRowsTogether - 1) / kRowsTogether; }

  /// Calls visit(values) for every row of a part.
  template <typename Visit>
  void visit(std::int64_t part, Visit visit) const {
    const std::int64_t end = std::min((part + 1) * kRowsTogether, weight_.rows);
    std::vector<float> values(static_cast<std::size_t>(weight_.cols));
    for (std::int64_t r = part * kRowsTogether; r < end; ++r) {
      read(r, values);
      visit(std::span<const float>(values));
    }
  }

 private:
  void read(std::int64_t r, std::vector<float>& values) const {
    switch (weight_.dtype) {
      case DType::f32:
        return copy(weight_.row<const float>(r), values, [](float v) { return v; });
      case DType::f16:
        return copy(weight_.row<const f16>(r), values, [](f16 v) { return to_float(v); });
      case DType::bf16:
        return copy(weight_.row<const bf16>(r), values, [](bf16 v) { return to_float(v); });
      default:
        contract_violation("weights are floats", __FILE__, __LINE__);
    }
  }

  template <typename T, typename Convert>
  static void copy(const T* row, std::vector<float>& values, Convert convert) {
    for (std::size_t c = 0; c < values.size(); ++c) values[c] = convert(row[c]);
  }

  const Matrix& weight_;
};

/// body(part) for all parts, on some threads.
template <typename Body>
void for_parts(std::int64_t parts, int threads, const Body& body) {
  std::atomic<std::int64_t> next = 0;
  const auto work = [&] {
    for (std::int64_t part = next++; part < parts; part = next++) body(part);
  };
  std::vector<std::thread> helpers;
  const auto wanted = std::min<std::int64_t>(threads, parts);
  for (std::int64_t i = 1; i < wanted; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}

Range range_of(const Rows& rows, int threads) {
  std::vector<Range> of_part(static_cast<std::size_t>(rows.parts()));
  std::atomic<bool> finite = true;
  for_parts(rows.parts(), threads, [&](std::int64_t part) {
    Range& range = of_part[static_cast<std::size_t>(part)];
    rows.visit(part, [&](std::span<const float> values) {
      for (const float value : values) {
        if (!std::isfinite(value)) finite = false;
        range.low = std::min(range.low, value);
        range.high = std::max(range.high, value);
      }
    });
  });
  if (!finite) throw NumericalError("a layer's weights hold NaN or infinity; look at the model's files");
  Range all;
  for (const Range& range : of_part) {
    all.low = std::min(all.low, range.low);
    all.high = std::max(all.high, range.high);
  }
  return all;
}

/// As a positive fp16 number.
float half_step(float step) {
  const float half = to_float(to_f16(std::min(step, 65504.0f)));
  return std::max(half, std::ldexp(1.0f, -24));
}

/// The grid of a range shrunk to the fraction p. An asymmetric zero of 0 becomes 1, with the scale that keeps
/// the top of the range: checkpoint format v1 stores zero − 1, and readers disagree about what −1 means.
/// second: with the whole number on the other side of the ideal zero.
Grid grid_of(const Range& range, float p, int max_code, bool sym, bool second) {
  const auto codes = static_cast<float>(max_code);
  const float step = half_step((p * range.high - p * range.low) / codes);
  if (sym) return {step, static_cast<float>((max_code + 1) / 2)};
  const float ideal = -(p * range.low) / step;
  const float nearest = std::nearbyint(ideal);
  const float whole = !second ? nearest : ideal > nearest ? nearest + 1 : nearest - 1;
  const float zero = std::min(whole, codes);
  if (zero < 1) return {half_step(p * range.high / (codes - 1)), 1};
  return {step, zero};
}

/// Σ weight · |q − w|^norm over one row.
double row_error(std::span<const float> values, std::span<const float> weight, const Grid& grid,
                 float max_code, double norm) {
  double error = 0;
  for (std::size_t c = 0; c < values.size(); ++c) {
    const float code = std::clamp(std::nearbyint(values[c] / grid.scale) + grid.zero, 0.0f, max_code);
    const double distance = std::abs(static_cast<double>(grid.scale * (code - grid.zero)) - values[c]);
    error += weight[c] * (norm == 2 ? distance * distance : std::pow(distance, norm));
  }
  return error;
}

std::vector<float> weights_of_columns(std::int64_t n, std::span<const float> given,
                                      const SolveOptions& options) {
  std::vector<float> weight(static_cast<std::size_t>(n), 1.0f);
  const bool weighted = options.search == SolveOptions::Search::weighted &&
                        std::any_of(given.begin(), given.end(), [](float w) { return w != 0; });
  if (!weighted) return weight;
  GPTQ_EXPECT(given.size() == weight.size());
  std::copy(given.begin(), given.end(), weight.begin());
  return weight;
}

}  // namespace

TensorScale find_tensor_scale(const Matrix& weight, std::span<const float> column_weight,
                              const SolveOptions& options, int threads) {
  const Rows rows(weight);
  const int max_code = options.max_code();
  Range range = range_of(rows, threads);
  if (range.low == 0 && range.high == 0) range = {-1, 1};
  if (options.sym) {
    range.high = std::max(range.high, -range.low);
    range.low = -range.high;
  }
  std::vector<Grid> grids;
  const int steps = options.search == SolveOptions::Search::minmax ? 1 : options.grid;
  // As judges_two_zeros() of the kernels.
  const bool two_zeros = !options.sym && max_code == 3 && steps > 1;
  for (int i = 0; i < steps && (i == 0 || i < options.max_shrink * steps); ++i) {
    const float p = 1 - static_cast<float>(i) / static_cast<float>(steps);
    grids.push_back(grid_of(range, p, max_code, options.sym, false));
    if (two_zeros) grids.push_back(grid_of(range, p, max_code, options.sym, true));
  }
  std::size_t best = 0;
  if (grids.size() > 1) {
    const std::vector<float> importance = weights_of_columns(weight.cols, column_weight, options);
    std::vector<double> errors(grids.size() * static_cast<std::size_t>(rows.parts()), 0.0);  // (parts, grids)
    for_parts(rows.parts(), threads, [&](std::int64_t part) {
      double* const error = errors.data() + static_cast<std::size_t>(part) * grids.size();
      rows.visit(part, [&](std::span<const float> values) {
        for (std::size_t g = 0; g < grids.size(); ++g)
          error[g] += row_error(values, importance, grids[g], static_cast<float>(max_code), options.norm);
      });
    });
    std::vector<double> total(grids.size(), 0.0);
    for (std::size_t i = 0; i < errors.size(); ++i) total[i % grids.size()] += errors[i];
    best = static_cast<std::size_t>(std::min_element(total.begin(), total.end()) - total.begin());
  }
  return {to_f16(grids[best].scale), static_cast<std::uint8_t>(grids[best].zero)};
}

GivenScales repeated(const TensorScale& scale, std::int64_t rows) {
  const auto count = static_cast<std::size_t>(rows);
  return {std::vector<f16>(count, scale.scale), std::vector<std::uint8_t>(count, scale.zero)};
}

}  // namespace gptq
