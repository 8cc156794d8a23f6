// One scale for a whole tensor: the same search as for a group, over all weights at once.
#include "quant/tensor_scale.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "quant/recipe.h"
#include "support/reference_quant.h"

namespace gptq {
namespace {

constexpr std::int64_t kRows = 150, kColumns = 48;

HostTensor random_weight(unsigned seed, float shift = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  HostTensor weight = make_tensor(DType::f32, {kRows, kColumns});
  for (std::int64_t i = 0; i < weight.elements(); ++i)
    reinterpret_cast<float*>(weight.storage.data())[i] =
        normal(random) * (i % kColumns == 3 ? 6.0f : 1.0f) + shift;
  return weight;
}

QuantizationSection section_of(const std::string& search, int bits, bool sym) {
  QuantizationSection section;
  section.scale_search = search;
  section.bits = bits;
  section.sym = sym;
  section.group_size = -1;
  return section;
}

/// The oracle: the tensor as a single row that is one group.
reference::Result one_long_row(const HostTensor& weight, QuantizationSection section) {
  reference::Dense row(1, weight.elements());
  for (std::int64_t i = 0; i < weight.elements(); ++i)
    row.values[static_cast<std::size_t>(i)] = reinterpret_cast<const float*>(weight.storage.data())[i];
  return reference::round_to_nearest(row, section);
}

TEST(TensorScale, IsThatOfTheTensorAsOneGroup) {
  for (const bool sym : {true, false}) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const char* search : {"minmax", "mse"}) {
        for (const double norm : {2.0, 2.4}) {
          QuantizationSection section = section_of(search, bits, sym);
          section.mse_norm = norm;
          const HostTensor weight = random_weight(static_cast<unsigned>(bits), sym ? 0 : 0.5f);
          const reference::Result expected = one_long_row(weight, section);
          const TensorScale found = find_tensor_scale(weight.matrix(), {}, solve_options(section));
          EXPECT_NEAR(to_float(found.scale), expected.scales[0], 2e-3 * expected.scales[0])
              << search << bits << sym << norm;
          EXPECT_EQ(found.zero, expected.zeros[0]) << search << bits << sym << norm;
        }
      }
    }
  }
}

TEST(TensorScale, WeightedSearchMindsTheColumnsThatCount) {
  const HostTensor weight = random_weight(5);
  const QuantizationSection section = section_of("weighted", 3, true);
  std::vector<float> all(kColumns, 1.0f), outlier(kColumns, 0.0f), others(kColumns, 1.0f);
  outlier[3] = 1;
  others[3] = 0;
  const auto scale = [&](std::span<const float> columns) {
    return to_float(find_tensor_scale(weight.matrix(), columns, solve_options(section)).scale);
  };
  EXPECT_GT(scale(outlier), 1.5f * scale(others)) << "column 3 is six times as wide";
  EXPECT_EQ(scale(all), scale(std::vector<float>(kColumns, 0.0f))) << "no column counts: all do";
  EXPECT_EQ(
      scale(all),
      to_float(find_tensor_scale(weight.matrix(), {}, solve_options(section_of("mse", 3, true))).scale));
}

TEST(TensorScale, IsTheSameForAnyNumberOfThreads) {
  const HostTensor weight = random_weight(7);
  const SolveOptions options = solve_options(section_of("mse", 4, false));
  const TensorScale one = find_tensor_scale(weight.matrix(), {}, options, 1);
  for (const int threads : {2, 3, 8}) {
    const TensorScale more = find_tensor_scale(weight.matrix(), {}, options, threads);
    EXPECT_EQ(to_float(more.scale), to_float(one.scale)) << threads;
    EXPECT_EQ(more.zero, one.zero) << threads;
  }
}

TEST(TensorScale, TakesEveryFloatingType) {
  const HostTensor weight = convert(random_weight(9), DType::bf16);
  const SolveOptions options = solve_options(section_of("mse", 4, true));
  for (const DType dtype : {DType::f32, DType::f16}) {
    EXPECT_EQ(to_float(find_tensor_scale(convert(weight, dtype).matrix(), {}, options).scale),
              to_float(find_tensor_scale(weight.matrix(), {}, options).scale));
  }
}

TEST(TensorScale, ZerosAndNonsense) {
  HostTensor weight = make_tensor(DType::f32, {2, 4});
  auto* values = reinterpret_cast<float*>(weight.storage.data());
  std::fill(values, values + 8, 0.0f);
  const SolveOptions options = solve_options(section_of("minmax", 4, true));
  EXPECT_NEAR(to_float(find_tensor_scale(weight.matrix(), {}, options).scale), 2.0f / 15, 1e-4);
  values[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(find_tensor_scale(weight.matrix(), {}, options), NumericalError);
  values[5] = -std::numeric_limits<float>::infinity();
  EXPECT_THROW(find_tensor_scale(weight.matrix(), {}, options), NumericalError);
}

TEST(TensorScale, IsRepeatedForEveryRow) {
  const GivenScales given = repeated({to_f16(0.5f), 8}, 3);
  ASSERT_EQ(given.scales.size(), 3u);
  ASSERT_EQ(given.zeros.size(), 3u);
  EXPECT_EQ(to_float(given.scales[2]), 0.5f);
  EXPECT_EQ(given.zeros[2], 8);
}

}  // namespace
}  // namespace gptq
