// Convolutions as layers of the engine: patches against a naive convolution, and a whole solve from them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/cpu_backend.h"
#include "base/error.h"
#include "mpi_world.h"
#include "pipeline/stage_solver.h"
#include "quant/convolution.h"
#include "quant/hessian.h"
#include "support/reference_forward.h"

namespace gptq::test {
namespace {

using reference::Array;

struct Sizes {
  const char* name;
  std::vector<std::int64_t> weight;
  std::int64_t height, width;
  Convolution::Axis rows, columns;  ///< kernels are the weight's
};

constexpr std::int64_t kSamples = 6;

Convolution convolution_of(const Sizes& sizes, const HostTensor& weight) {
  Convolution result = Convolution::of(weight, sizes.weight[1]);
  const Convolution::Axis kernel_rows = result.rows, kernel_columns = result.columns;
  result.rows = sizes.rows;
  result.columns = sizes.columns;
  result.rows.kernel = kernel_rows.kernel;
  result.columns.kernel = kernel_columns.kernel;
  return result;
}

/// Out[o][y][x] by the definition, one output after the other.
std::vector<double> convolve(const Convolution& c, const std::vector<double>& weight,
                             std::int64_t out_channels, const Array& input, std::int64_t height,
                             std::int64_t width) {
  std::vector<double> result;
  for (std::int64_t o = 0; o < out_channels; ++o) {
    for (std::int64_t y = -c.rows.padding;
         y + c.rows.dilation * (c.rows.kernel - 1) < height + c.rows.padding; y += c.rows.stride) {
      for (std::int64_t x = -c.columns.padding;
           x + c.columns.dilation * (c.columns.kernel - 1) < width + c.columns.padding;
           x += c.columns.stride) {
        double sum = 0;
        for (std::int64_t channel = 0; channel < c.in_channels; ++channel) {
          for (std::int64_t i = 0; i < c.rows.kernel; ++i) {
            for (std::int64_t j = 0; j < c.columns.kernel; ++j) {
              const std::int64_t row = y + i * c.rows.dilation, column = x + j * c.columns.dilation;
              if (row < 0 || row >= height || column < 0 || column >= width) continue;
              const auto at = static_cast<std::size_t>(
                  ((o * c.in_channels + channel) * c.rows.kernel + i) * c.columns.kernel + j);
              sum += weight[at] *
                     input.values[static_cast<std::size_t>(channel * height * width + row * width + column)];
            }
          }
        }
        result.push_back(sum);
      }
    }
  }
  return result;
}

class ConvolutionLayer : public testing::TestWithParam<Sizes> {
 protected:
  std::int64_t out_channels() const { return GetParam().weight[0]; }
  HostTensor weight() const {
    std::int64_t columns = 1;
    for (std::size_t axis = 1; axis < GetParam().weight.size(); ++axis) columns *= GetParam().weight[axis];
    HostTensor tensor =
        reference::to_tensor(reference::random_array(out_channels(), columns, DType::f32, 7), DType::f32);
    tensor.shape = GetParam().weight;
    return tensor;
  }
  Array input(unsigned seed) const {
    return reference::random_array(GetParam().weight[1], GetParam().height * GetParam().width, DType::f32,
                                   seed);
  }
};

std::vector<double> doubles_of(const HostTensor& tensor) {
  const auto* const first = reinterpret_cast<const float*>(tensor.storage.data());
  return {first, first + tensor.elements()};
}

TEST_P(ConvolutionLayer, PatchesTimesWeightsAreItsOutput) {
  const HostTensor weights = weight();
  const Convolution convolution = convolution_of(GetParam(), weights);
  const Array x = input(3);
  const HostTensor patches =
      unfold(convolution, reference::to_tensor(x, DType::f32).matrix(), GetParam().height, GetParam().width);
  const std::vector<double> expected =
      convolve(convolution, doubles_of(weights), out_channels(), x, GetParam().height, GetParam().width);
  const Matrix rows = patches.matrix(), w = weights.matrix();
  ASSERT_EQ(w.cols, convolution.in_features());
  ASSERT_EQ(rows.cols, convolution.in_features());
  ASSERT_EQ(static_cast<std::size_t>(rows.rows * out_channels()), expected.size());
  for (std::int64_t o = 0; o < out_channels(); ++o) {
    for (std::int64_t place = 0; place < rows.rows; ++place) {
      double sum = 0;
      for (std::int64_t c = 0; c < rows.cols; ++c)
        sum += static_cast<double>(rows.row<float>(place)[c]) * w.row<float>(o)[c];
      EXPECT_NEAR(sum, expected[static_cast<std::size_t>(o * rows.rows + place)], 1e-9);
    }
  }
}

/// What the report calls the output's error is that of the convolution itself, over all samples.
TEST_P(ConvolutionLayer, IsSolvedLikeALinear) {
  const HostTensor weights = weight();
  const Convolution convolution = convolution_of(GetParam(), weights);
  std::vector<HostTensor> patches;
  std::vector<float> maximum(static_cast<std::size_t>(convolution.in_features()));
  std::int64_t tokens = 0;
  for (unsigned sample = 0; sample < kSamples; ++sample) {
    patches.push_back(unfold(convolution, reference::to_tensor(input(sample), DType::f32).matrix(),
                             GetParam().height, GetParam().width));
    tokens += patches.back().shape[0];
    const std::vector<double> values = doubles_of(patches.back());
    for (std::size_t i = 0; i < values.size(); ++i) {
      float& most = maximum[i % maximum.size()];
      most = std::max(most, static_cast<float>(std::abs(values[i])));
    }
  }
  const auto backend = make_cpu_backend(1);
  StageSums sums;
  sums.hessian = make_hessian_sum(*backend, maximum, tokens);
  for (const HostTensor& rows : patches)
    accumulate_hessian(backend->kernels(), rows.matrix(), sums.hessian.exponents, sums.hessian.values());

  QuantizationSection section;
  section.group_size = -1;
  const Recipe recipe(section);
  const auto collectives = make_host_collectives(world());
  PhaseClock phases(*backend);
  StageSolver solver(*backend, {world(), *collectives}, recipe, tokens, kSamples, 0, phases);
  const SolvedStage solved = solver.solve(sums, {{"conv", "conv", &weights, nullptr, {}, 0, 0}}, 0, nullptr);

  const QuantizedLayer& layer = solved.layers.front();
  ASSERT_EQ(layer.in_features, convolution.in_features());
  const std::vector<double> original = doubles_of(weights);
  std::vector<double> difference = original;
  for (std::size_t i = 0; i < difference.size(); ++i) {
    const std::size_t row = i / maximum.size();
    difference[i] -= static_cast<double>(to_float(layer.scales[row])) * (layer.codes[i] - layer.zeros[row]);
  }
  double error = 0, energy = 0;
  const auto add = [&](double& sum, const std::vector<double>& w, unsigned sample) {
    for (const double y :
         convolve(convolution, w, out_channels(), input(sample), GetParam().height, GetParam().width))
      sum += y * y;
  };
  for (unsigned sample = 0; sample < kSamples; ++sample) {
    add(error, difference, sample);
    add(energy, original, sample);
  }
  EXPECT_GT(error, 0);
  EXPECT_NEAR(solved.statistics.front().relative_output_error, error / energy, 1e-3 * error / energy);
}

INSTANTIATE_TEST_SUITE_P(Kernels, ConvolutionLayer,
                         testing::Values(Sizes{"one_axis", {8, 3, 5}, 1, 40, {}, {}},
                                         Sizes{"strided", {8, 3, 4}, 1, 40, {}, {1, 3, 2, 2}},
                                         Sizes{"two_axes", {6, 4, 3, 3}, 9, 11, {1, 1, 1, 1}, {1, 1, 1, 1}},
                                         Sizes{"patches", {10, 3, 4, 4}, 16, 12, {1, 4, 0, 1}, {1, 4, 0, 1}},
                                         Sizes{"uneven", {5, 2, 2, 3}, 8, 9, {1, 2, 1, 3}, {1, 1, 0, 2}}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(ConvolutionShape, WhatIsNoneIsRefused) {
  const auto tensor = [](std::vector<std::int64_t> shape) {
    return make_tensor(DType::f32, std::move(shape));
  };
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message([&] { Convolution::of(tensor({4, 3}), 3); }), testing::HasSubstr("not (4, 3)"));
  EXPECT_THAT(message([&] { Convolution::of(tensor({4, 1, 3}), 4); }), testing::HasSubstr("grouped"));
  EXPECT_THAT(message([&] { Convolution::Axis{5, 1, 1, 1}.places(2); }), testing::HasSubstr("does not fit"));
}

}  // namespace
}  // namespace gptq::test
