#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "model/rotation.h"
#include "support/reference_forward.h"

namespace gptq {
namespace {

using reference::Array;

/// Θ entry by entry from its definition: s_i · H(i / m, j / m) · Q(i % m, j % m).
Array naive_theta(std::int64_t width, std::uint32_t stream) {
  std::int64_t odd = width;
  while (odd % 2 == 0) odd /= 2;
  const auto size = static_cast<double>(width);
  Array theta(width, width);
  for (std::int64_t i = 0; i < width; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      const auto common = static_cast<unsigned>((i / odd) & (j / odd));
      const double hadamard = __builtin_popcount(common) % 2 == 0 ? 1 : -1;
      const double angle =
          2 * std::numbers::pi * static_cast<double>((i % odd) * (j % odd)) / static_cast<double>(odd);
      theta.at(i, j) = random_sign(stream, static_cast<std::uint32_t>(i)) * hadamard *
                       (std::cos(angle) + std::sin(angle)) / std::sqrt(size);
    }
  }
  return theta;
}

Array transposed(const Array& a) {
  Array result(a.cols, a.rows);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.cols; ++c) result.at(c, r) = a.at(r, c);
  }
  return result;
}

/// a·b
Array product(const Array& a, const Array& b) {
  return reference::linear(a, transposed(b), {});
}

/// The same matrix on the diagonal as often as it fits.
Array repeated(const Array& part, std::int64_t width) {
  Array result(width, width);
  for (std::int64_t first = 0; first < width; first += part.rows) {
    for (std::int64_t r = 0; r < part.rows; ++r) {
      for (std::int64_t c = 0; c < part.cols; ++c) result.at(first + r, first + c) = part.at(r, c);
    }
  }
  return result;
}

class Widths : public testing::TestWithParam<std::int64_t> {};

TEST_P(Widths, TheFastTransformIsTheMatrix) {
  const std::int64_t width = GetParam();
  const Array theta = naive_theta(width, 3);
  for (const std::int64_t count : {1, 5, 16}) {
    const Array x = reference::random_array(width, count, DType::f32, 7);
    Array turned = x;
    Rotation(width, 3).turn(turned.values.data(), count);
    EXPECT_LT(reference::largest_difference(turned, product(transposed(theta), x)), 1e-13) << count;
  }
}

TEST_P(Widths, TheMatrixIsOrthogonalAndFlat) {
  const std::int64_t width = GetParam();
  const Array theta = naive_theta(width, 0);
  const Array gram = product(transposed(theta), theta);
  for (std::int64_t i = 0; i < width; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      EXPECT_NEAR(gram.at(i, j), i == j ? 1 : 0, 1e-12);
      EXPECT_LE(std::abs(theta.at(i, j)), std::sqrt(2.0 / static_cast<double>(width)) + 1e-12);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rotation, Widths, testing::Values(1, 2, 3, 8, 9, 24, 36, 64, 96, 144, 255, 510));

TEST(Rotation, WidthsWithALargeOddFactorAreNot) {
  EXPECT_FALSE(Rotation::obstacle(4096));
  EXPECT_FALSE(Rotation::obstacle(3584));
  EXPECT_FALSE(Rotation::obstacle(2 * 255));
  EXPECT_EQ(Rotation::obstacle(514).value_or(""), "514 = 2 x 257, and odd factors above 255 are not turned");
}

// Written into every rotated model: other signs would be another format.
TEST(Rotation, TheSignsAreTheDocumentedOnes) {
  std::string signs;
  for (std::uint32_t i = 0; i < 16; ++i) signs += random_sign(0, i) > 0 ? '+' : '-';
  for (std::uint32_t i = 0; i < 16; ++i) signs += random_sign(5, i) > 0 ? '+' : '-';
  EXPECT_EQ(signs, "-++-+++-+-+--------+-+---+-+--+-");
  double sum = 0;
  for (std::uint32_t i = 0; i < 10000; ++i) sum += random_sign(1, i);
  EXPECT_LT(std::abs(sum), 400);  // four standard deviations
}

struct TurnCase {
  std::int64_t out, in;
  std::int64_t outputs, inputs;  ///< widths; 0: not turned
  bool scaled;
};

class Turns : public testing::TestWithParam<TurnCase> {};

TEST_P(Turns, AreTheProductsOfMatrices) {
  const auto [out, in, outputs, inputs, scaled] = GetParam();
  const Array weight = reference::random_array(out, in, DType::bf16, 1);
  const Array scale = reference::random_array(1, in, DType::f32, 2);
  Array expected = weight;
  if (scaled) {
    for (std::int64_t r = 0; r < out; ++r) {
      for (std::int64_t c = 0; c < in; ++c) expected.at(r, c) *= scale.at(0, c);
    }
  }
  if (inputs > 0) expected = product(expected, repeated(naive_theta(inputs, 1), in));
  if (outputs > 0) expected = product(transposed(repeated(naive_theta(outputs, 2), out)), expected);

  const HostTensor source = reference::to_tensor(weight, DType::bf16);
  HostTensor factors = reference::to_tensor(scale, DType::f32);
  const Rotation of_inputs(std::max<std::int64_t>(1, inputs), 1);
  const Rotation of_outputs(std::max<std::int64_t>(1, outputs), 2);
  const WeightTurn how{scaled ? &factors : nullptr, inputs > 0 ? &of_inputs : nullptr,
                       outputs > 0 ? &of_outputs : nullptr};
  HostTensor result = make_tensor(DType::f32, {out, in});
  EXPECT_TRUE(turn_weight(source.matrix(), how, result.matrix()));
  EXPECT_LT(reference::largest_difference(reference::from_matrix(result.matrix()), expected), 1e-6);

  // In place, in the source's type: the same, rounded.
  EXPECT_TRUE(turn_weight(source.matrix(), how, source.matrix()));
  EXPECT_EQ(reference::from_matrix(source.matrix()).values,
            reference::from_matrix(convert(result, DType::bf16).matrix()).values);
}

INSTANTIATE_TEST_SUITE_P(Rotation, Turns,
                         testing::Values(TurnCase{50, 72, 0, 72, true}, TurnCase{72, 50, 72, 0, false},
                                         TurnCase{48, 72, 24, 72, true}, TurnCase{72, 48, 72, 24, false},
                                         TurnCase{1, 96, 0, 24, false}, TurnCase{3, 5, 0, 0, true}));

TEST(Rotation, AValueTooLargeForItsTypeIsTold) {
  HostTensor weight = make_tensor(DType::f16, {1, 2});
  weight.matrix().row<f16>(0)[0] = weight.matrix().row<f16>(0)[1] = to_f16(60000);
  const Rotation rotation(2, 0);
  EXPECT_FALSE(turn_weight(weight.matrix(), {nullptr, &rotation, nullptr}, weight.matrix()));
}

}  // namespace
}  // namespace gptq
