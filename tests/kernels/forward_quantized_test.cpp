#include <random>

#include "kernels/forward_fixture.h"

namespace gptq {
namespace {

/// A layer as the output stores it, with random contents.
struct QuantizedModule {
  QuantizedWeights view;
  std::vector<std::uint8_t> codes, zeros;
  std::vector<f16> scales;
  std::vector<std::int32_t> group_of;

  QuantizedModule(std::int64_t out, std::int64_t in, std::int64_t group_size, int bits, bool shuffled) {
    std::mt19937 generator(static_cast<unsigned>(out * in + bits));
    const std::int64_t groups = (in + group_size - 1) / group_size;
    const auto code = [&] { return static_cast<std::uint8_t>(generator() % (1u << bits)); };
    for (std::int64_t k = 0; k < out * in; ++k) codes.push_back(code());
    for (std::int64_t k = 0; k < out * groups; ++k) {
      zeros.push_back(code());
      scales.push_back(to_f16(0.001f * static_cast<float>(1 + generator() % 500)));
    }
    scales[0] = f16{1};  // the smallest subnormal
    for (std::int64_t c = 0; c < in; ++c) group_of.push_back(static_cast<std::int32_t>(c / group_size));
    if (shuffled) std::shuffle(group_of.begin(), group_of.end(), generator);
    view = {out, in, groups, codes.data(), scales.data(), zeros.data(), group_of.data()};
  }

  /// scale · (code − zero), from the definition.
  HostTensor dense() const {
    HostTensor result = make_tensor(DType::f32, {view.out_features, view.in_features});
    for (std::int64_t r = 0; r < view.out_features; ++r) {
      for (std::int64_t c = 0; c < view.in_features; ++c) {
        const auto place = static_cast<std::size_t>(r * view.groups + group_of[static_cast<std::size_t>(c)]);
        const int steps = int{codes[static_cast<std::size_t>(r * view.in_features + c)]} - int{zeros[place]};
        result.matrix().row<float>(r)[c] = to_float(scales[place]) * static_cast<float>(steps);
      }
    }
    return result;
  }
};

class QuantizedLinearTest : public ForwardKernels {
 protected:
  std::string product(const LinearWeights& weights, const TestMatrix& x) const {
    const TestMatrix y(backend(), DType::f32, x.matrix().rows, weights.out_features());
    kernels().linear(batch_of({x.matrix().rows}), x.matrix(), weights, y.matrix(), false);
    EXPECT_TRUE(y.is_written());
    return y.bytes();
  }
};

TEST_P(QuantizedLinearTest, MultipliesLikeItsDequantizedTwin) {
  struct Case {
    std::int64_t out, in, group_size;
    int bits;
    bool shuffled, bias;
  };
  for (const auto& [out, in, group_size, bits, shuffled, bias] : {Case{48, 64, 32, 4, false, false},
                                                                  {33, 45, 16, 3, false, true},
                                                                  {64, 128, 128, 8, true, true},
                                                                  {5, 7, 7, 2, false, false},
                                                                  {1, 1, 1, 4, false, true},
                                                                  {96, 200, 1, 4, true, false}}) {
    SCOPED_TRACE(testing::Message() << out << " x " << in << ", " << bits << " bits");
    const QuantizedModule module(out, in, group_size, bits, shuffled);
    std::vector<float> b;
    if (bias) b = reference::to_floats(reference::random_array(1, out, DType::f32, 3));
    const auto packed = kernels().prepare_quantized(module.view, b, dtype());
    const auto dense = kernels().prepare_linear(module.dense().matrix(), b, dtype());
    EXPECT_EQ(packed->in_features(), in);
    EXPECT_EQ(packed->out_features(), out);
    const TestMatrix x = on_device(random(19, in, 1));
    EXPECT_EQ(product(*packed, x), product(*dense, x));
  }
}

TEST_P(QuantizedLinearTest, ComesOutExactly) {
  // The unit matrix as input shows the weights themselves.
  const QuantizedModule module(24, 32, 16, 4, true);
  reference::Array unit(32, 32);
  for (std::int64_t c = 0; c < 32; ++c) unit.at(c, c) = 1;
  const auto weights = kernels().prepare_quantized(module.view, {}, dtype());
  const TestMatrix x(backend(), unit, dtype());
  const TestMatrix y(backend(), DType::f32, 32, 24);
  kernels().linear(batch_of({32}), x.matrix(), *weights, y.matrix(), false);
  const reference::Array got = y.array();
  const HostTensor expected = convert(convert(module.dense(), dtype()), DType::f32);
  for (std::int64_t r = 0; r < 24; ++r) {
    for (std::int64_t c = 0; c < 32; ++c)
      EXPECT_EQ(got.at(c, r), static_cast<double>(expected.matrix().row<float>(r)[c])) << r << ", " << c;
  }
}

GPTQ_FORWARD_SUITE(QuantizedLinearTest);

}  // namespace
}  // namespace gptq
