#include "model/rotation.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace gptq {
namespace {

constexpr std::int64_t kPanel = 32;  ///< rows or columns taken at a time where nothing asks for more

std::int64_t odd_factor(std::int64_t width) {
  while (width % 2 == 0) width /= 2;
  return width;
}

std::vector<double> hartley(std::int64_t size) {
  std::vector<double> matrix(static_cast<std::size_t>(size * size));
  const double scale = 1 / std::sqrt(static_cast<double>(size));
  for (std::int64_t i = 0; i < size; ++i) {
    for (std::int64_t j = 0; j < size; ++j) {
      const double angle =
          2 * std::numbers::pi * static_cast<double>(i * j % size) / static_cast<double>(size);
      matrix[static_cast<std::size_t>(i * size + j)] = scale * (std::cos(angle) + std::sin(angle));
    }
  }
  return matrix;
}

template <typename T>
void load_row(const T* source, std::int64_t count, double* target) {
  for (std::int64_t i = 0; i < count; ++i) target[i] = static_cast<double>(to_float(source[i]));
}

void load_row(const Matrix& source, std::int64_t row, std::int64_t count, double* target) {
  switch (source.dtype) {
    case DType::f32:
      return load_row(source.row<float>(row), count, target);
    case DType::bf16:
      return load_row(source.row<bf16>(row), count, target);
    case DType::f16:
      return load_row(source.row<f16>(row), count, target);
    default:
      contract_violation("a weight to turn is of a floating type", __FILE__, __LINE__);
  }
}

template <typename T, typename Round>
bool store_row(const double* source, std::int64_t count, Round round, T* target) {
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) {
    target[i] = round(static_cast<float>(source[i]));
    finite = finite && std::isfinite(to_float(target[i]));
  }
  return finite;
}

bool store_row(const double* source, std::int64_t count, const Matrix& target, std::int64_t row) {
  switch (target.dtype) {
    case DType::f32:
      return store_row(
          source, count, [](float v) { return v; }, target.row<float>(row));
    case DType::bf16:
      return store_row(source, count, to_bf16, target.row<bf16>(row));
    case DType::f16:
      return store_row(source, count, to_f16, target.row<f16>(row));
    default:
      contract_violation("a turned weight is of a floating type", __FILE__, __LINE__);
  }
}

/// Rows and columns that must be together in memory for both turns.
class Panel {
 public:
  Panel(const WeightTurn& how, const Matrix& weight)
      : how_(how),
        rows_(how.outputs != nullptr ? how.outputs->width() : std::min(kPanel, weight.rows)),
        cols_(how.inputs != nullptr ? how.inputs->width() : std::min(kPanel, weight.cols)),
        values_(static_cast<std::size_t>(rows_ * cols_)) {}

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }

  /// The part of weight that begins at (row, col).
  bool turn(const Matrix& weight, std::int64_t row, std::int64_t col, const Matrix& result) {
    const std::int64_t rows = std::min(rows_, weight.rows - row);
    const std::int64_t cols = std::min(cols_, weight.cols - col);
    const Matrix source = weight.rows_from(row, rows).cols_from(col, cols);
    const Matrix target = result.rows_from(row, rows).cols_from(col, cols);
    double* const values = values_.data();
    for (std::int64_t r = 0; r < rows; ++r) load_row(source, r, cols, values + r * cols);
    for (std::int64_t r = 0; r < rows; ++r) {
      if (how_.input_scale != nullptr) scale(values + r * cols, col, cols);
      if (how_.inputs != nullptr) how_.inputs->turn(values + r * cols, 1);  // a row times Θ
    }
    if (how_.outputs != nullptr) how_.outputs->turn(values, cols);
    bool finite = true;
    for (std::int64_t r = 0; r < rows; ++r) finite &= store_row(values + r * cols, cols, target, r);
    return finite;
  }

 private:
  void scale(double* row, std::int64_t first, std::int64_t count) const {
    const float* const factors = how_.input_scale->matrix().row<float>(0) + first;
    for (std::int64_t c = 0; c < count; ++c) row[c] *= static_cast<double>(factors[c]);
  }

  const WeightTurn& how_;
  std::int64_t rows_;
  std::int64_t cols_;
  std::vector<double> values_;
};

}  // namespace

std::optional<std::string> Rotation::obstacle(std::int64_t width) {
  GPTQ_EXPECT(width > 0);
  const std::int64_t odd = odd_factor(width);
  if (odd <= kLargestOddFactor) return std::nullopt;
  return fmt::format("{} = {} x {}, and odd factors above {} are not turned", width, width / odd, odd,
                     kLargestOddFactor);
}

Rotation::Rotation(std::int64_t width, std::uint32_t stream)
    : width_(width), odd_(odd_factor(width)), signs_(static_cast<std::size_t>(width)), dense_(hartley(odd_)) {
  GPTQ_EXPECT(!obstacle(width));
  const double scale = 1 / std::sqrt(static_cast<double>(width_ / odd_));
  for (std::size_t i = 0; i < signs_.size(); ++i) {
    signs_[i] = scale * random_sign(stream, static_cast<std::uint32_t>(i));
  }
}

void Rotation::turn(double* x, std::int64_t count) const {
  for (std::int64_t i = 0; i < width_; ++i) {
    for (std::int64_t c = 0; c < count; ++c) x[i * count + c] *= signs_[static_cast<std::size_t>(i)];
  }
  if (odd_ > 1) apply_dense_factor(x, count);
  apply_hadamard(x, count);
}

/// Coordinate a·m + b: Q mixes the b of each a.
void Rotation::apply_dense_factor(double* x, std::int64_t count) const {
  constexpr std::int64_t kColumns = 8;
  std::array<double, kLargestOddFactor * kColumns> mixed;
  for (std::int64_t first = 0; first < width_; first += odd_) {
    for (std::int64_t col = 0; col < count; col += kColumns) {
      const std::int64_t columns = std::min(kColumns, count - col);
      double* const part = x + first * count + col;
      std::fill_n(mixed.begin(), odd_ * columns, 0.0);
      for (std::int64_t b = 0; b < odd_; ++b) {
        for (std::int64_t to = 0; to < odd_; ++to) {
          const double factor = dense_[static_cast<std::size_t>(b * odd_ + to)];
          for (std::int64_t c = 0; c < columns; ++c)
            mixed[static_cast<std::size_t>(to * columns + c)] += factor * part[b * count + c];
        }
      }
      for (std::int64_t to = 0; to < odd_; ++to) {
        std::copy_n(mixed.begin() + to * columns, columns, part + to * count);
      }
    }
  }
}

/// The fast Walsh-Hadamard transform over a.
void Rotation::apply_hadamard(double* x, std::int64_t count) const {
  for (std::int64_t half = odd_; half < width_; half *= 2) {
    const std::int64_t run = half * count;
    for (double* pair = x; pair < x + width_ * count; pair += 2 * run) {
      for (std::int64_t i = 0; i < run; ++i) {
        const double sum = pair[i] + pair[run + i];
        pair[run + i] = pair[i] - pair[run + i];
        pair[i] = sum;
      }
    }
  }
}

double random_sign(std::uint32_t stream, std::uint32_t i) {
  std::uint64_t z = ((static_cast<std::uint64_t>(stream) << 32) + i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return ((z ^ (z >> 31)) >> 63) != 0 ? -1 : 1;
}

bool turn_weight(const Matrix& weight, const WeightTurn& how, const Matrix& result) {
  GPTQ_EXPECT(weight.rows == result.rows && weight.cols == result.cols);
  GPTQ_EXPECT(how.inputs == nullptr || weight.cols % how.inputs->width() == 0);
  GPTQ_EXPECT(how.outputs == nullptr || weight.rows % how.outputs->width() == 0);
  GPTQ_EXPECT(how.input_scale == nullptr || how.input_scale->elements() == weight.cols);
  Panel panel(how, weight);
  bool finite = true;
  for (std::int64_t row = 0; row < weight.rows; row += panel.rows()) {
    for (std::int64_t col = 0; col < weight.cols; col += panel.cols()) {
      finite &= panel.turn(weight, row, col, result);
    }
  }
  return finite;
}

}  // namespace gptq
