#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backend/backend.h"
#include "base/error.h"
#include "quant/hessian.h"
#include "support/reference_quant.h"

namespace gptq {
namespace {

/// x (rows, n) in both types; the values are those of bf16.
struct Inputs {
  std::int64_t rows, n;
  std::vector<float> floats;
  std::vector<bf16> halves;

  Inputs(std::int64_t r, std::int64_t c, unsigned seed) : rows(r), n(c) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (std::int64_t k = 0; k < r * c; ++k) {
      halves.push_back(to_bf16(normal(generator) * std::exp2(static_cast<float>(k % c % 7) - 3.0f)));
      floats.push_back(to_float(halves.back()));
    }
  }
  Matrix matrix(DType dtype) {
    return {dtype == DType::f32 ? static_cast<void*>(floats.data()) : static_cast<void*>(halves.data()),
            dtype, rows, n, n};
  }
};

std::vector<DType> types_of(Backend& backend) {
  return backend.fast_bf16() ? std::vector<DType>{DType::f32, DType::bf16} : std::vector<DType>{DType::f32};
}

HessianSum start(Backend& backend, const Matrix& x) {
  std::vector<float> maximum(static_cast<std::size_t>(x.cols), 0.0f);
  backend.kernels().column_max(x, maximum);
  return make_hessian_sum(maximum, x.rows);
}

void add(Backend& backend, const Matrix& x, HessianSum& sum) {
  backend.kernels().accumulate_hessian(x, sum.exponents, sum.panels.data());
}

/// Largest |h - expected| in units of sqrt(h_ii h_jj).
double distance(const std::vector<double>& h, const reference::Dense& expected) {
  double largest = 0;
  for (std::int64_t i = 0; i < expected.rows; ++i) {
    for (std::int64_t j = 0; j < expected.rows; ++j) {
      const double scale = std::sqrt(expected.at(i, i) * expected.at(j, j));
      if (scale == 0) continue;
      largest = std::max(
          largest, std::abs(h[static_cast<std::size_t>(i * expected.rows + j)] - expected.at(i, j)) / scale);
    }
  }
  return largest;
}

reference::Dense exact_hessian(const Inputs& inputs) {
  reference::Dense x(inputs.rows, inputs.n);
  x.values.assign(inputs.floats.begin(), inputs.floats.end());
  return reference::hessian(x);
}

TEST(HessianSum, AgreesWithDoublePrecision) {
  const auto backend = make_backend({"cpu", 2});
  // One panel, a panel's edge, several panels and column tiles; rows below, at and between multiples of 256.
  for (const auto& [rows, n] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 5}, {256, 192}, {300, 193}, {77, 460}}) {
    Inputs inputs(rows, n, 1);
    for (const DType dtype : types_of(*backend)) {
      HessianSum sum = start(*backend, inputs.matrix(dtype));
      add(*backend, inputs.matrix(dtype), sum);
      EXPECT_LT(distance(to_hessian(sum), exact_hessian(inputs)), 2e-6)
          << rows << "x" << n << " " << name_of(dtype);
    }
  }
}

TEST(HessianSum, ChunksMayComeInAnyOrderFromAnyRank) {
  const auto backend = make_backend({"cpu", 1});
  Inputs inputs(700, 250, 2);
  const std::vector<std::int64_t> chunks{0, 100, 356, 356, 500, 700};  // one of them empty
  for (const DType dtype : types_of(*backend)) {
    const Matrix x = inputs.matrix(dtype);
    HessianSum forward = start(*backend, x);
    HessianSum first_rank = forward, second_rank = forward;
    for (std::size_t c = 0; c + 1 < chunks.size(); ++c)
      add(*backend, x.rows_from(chunks[c], chunks[c + 1] - chunks[c]), forward);
    for (std::size_t c = chunks.size() - 1; c-- > 0;)
      add(*backend, x.rows_from(chunks[c], chunks[c + 1] - chunks[c]), c % 2 == 0 ? first_rank : second_rank);
    for (std::size_t k = 0; k < forward.panels.size(); ++k)
      ASSERT_EQ(forward.panels[k], first_rank.panels[k] + second_rank.panels[k]);
  }
}

TEST(HessianSum, AnyNumberOfThreadsGivesTheSameBits) {
  Inputs inputs(513, 800, 3);
  const auto one = make_backend({"cpu", 1});
  for (const DType dtype : types_of(*one)) {
    HessianSum expected = start(*one, inputs.matrix(dtype));
    add(*one, inputs.matrix(dtype), expected);
    for (const int threads : {2, 3}) {
      const auto many = make_backend({"cpu", threads});
      HessianSum sum = start(*many, inputs.matrix(dtype));
      EXPECT_EQ(sum.exponents, expected.exponents);
      add(*many, inputs.matrix(dtype), sum);
      EXPECT_EQ(sum.panels, expected.panels) << threads << " threads";
    }
  }
}

TEST(HessianSum, ReadsAPartOfWiderRows) {
  const auto backend = make_backend({"cpu", 2});
  Inputs inputs(40, 64, 4);
  std::vector<float> packed;
  for (std::int64_t r = 0; r < 40; ++r)
    packed.insert(packed.end(), inputs.floats.begin() + r * 64 + 8, inputs.floats.begin() + r * 64 + 38);
  const Matrix narrow{packed.data(), DType::f32, 40, 30, 30};
  HessianSum expected = start(*backend, narrow);
  HessianSum sum = start(*backend, inputs.matrix(DType::f32).cols_from(8, 30));
  add(*backend, narrow, expected);
  add(*backend, inputs.matrix(DType::f32).cols_from(8, 30), sum);
  EXPECT_EQ(sum.exponents, expected.exponents);
  EXPECT_EQ(sum.panels, expected.panels);
}

TEST(HessianSum, ExtremeColumnsStayExact) {
  const auto backend = make_backend({"cpu", 1});
  Inputs inputs(300, 40, 5);
  for (std::int64_t r = 0; r < 300; ++r) {
    for (std::int64_t c = 0; c < 40; ++c) {
      float& x = inputs.floats[static_cast<std::size_t>(r * 40 + c)];
      const float factor = c == 0 ? 1e-30f : c == 1 ? 1e30f : c == 2 ? 0.0f : 1.0f;
      x = to_float(to_bf16(x * factor));
      if (c == 3 && r == 17) x = 65536.0f;
      inputs.halves[static_cast<std::size_t>(r * 40 + c)] = to_bf16(x);
    }
  }
  for (const DType dtype : types_of(*backend)) {
    HessianSum sum = start(*backend, inputs.matrix(dtype));
    add(*backend, inputs.matrix(dtype), sum);
    const std::vector<double> h = to_hessian(sum);
    EXPECT_LT(distance(h, exact_hessian(inputs)), 1e-5) << name_of(dtype);
    EXPECT_EQ(h[2 * 40 + 2], 0);
    EXPECT_EQ(h[2 * 40 + 5], 0);
  }
}

TEST(ColumnMax, FindsTheLargestMagnitudeAndNan) {
  const auto backend = make_backend({"cpu", 3});
  Inputs inputs(33, 600, 6);
  for (const DType dtype : types_of(*backend)) {
    std::vector<float> maximum(600, 0.25f), expected(600, 0.25f);
    for (std::int64_t k = 0; k < 33 * 600; ++k) {
      float& largest = expected[static_cast<std::size_t>(k % 600)];
      largest = std::max(largest, std::abs(inputs.floats[static_cast<std::size_t>(k)]));
    }
    backend->kernels().column_max(inputs.matrix(dtype), maximum);
    EXPECT_EQ(maximum, expected);
  }
  inputs.floats[5 * 600 + 7] = -std::nanf("");
  std::vector<float> maximum(600, 0.0f);
  backend->kernels().column_max(inputs.matrix(DType::f32), maximum);
  EXPECT_TRUE(std::isnan(maximum[7]));
  EXPECT_FALSE(std::isnan(maximum[8]));
  EXPECT_THROW(make_hessian_sum(maximum, 33), NumericalError);
}

}  // namespace
}  // namespace gptq
