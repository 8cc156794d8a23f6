#include <cmath>
#include <limits>

#include "kernels/forward_fixture.h"

namespace gptq {
namespace {

using reference::Array;

class RowsTest : public ForwardKernels {
 protected:
  void expect_close(const HostTensor& got, const Array& expected) {
    EXPECT_LT(reference::largest_difference(reference::from_matrix(got.matrix()), expected), tolerance());
  }
  HostTensor random(std::int64_t rows, std::int64_t cols, unsigned seed, double scale = 1) {
    return reference::to_tensor(reference::random_array(rows, cols, dtype(), seed, scale), dtype());
  }
};

TEST_P(RowsTest, RmsNormOfTheResidualStream) {
  const Array x = reference::random_array(70, 37, DType::f32, 1, 3.0);
  const std::vector<float> weight = reference::to_floats(reference::random_array(1, 37, DType::f32, 2));
  const HostTensor y = make_tensor(dtype(), {70, 37});
  kernels_.rms_norm(reference::to_tensor(x, DType::f32).matrix(), weight, 1e-5f, 1.0f, y.matrix());
  expect_close(y, reference::rms_norm(x, weight, 1e-5, 1.0));
}

TEST_P(RowsTest, RmsNormOfEachHead) {
  const HostTensor x = random(9, 4 * 24, 3);
  const std::vector<float> weight = reference::to_floats(reference::random_array(1, 24, DType::f32, 4));
  const Array expected = reference::rms_norm(reference::from_matrix(x.matrix()), weight, 1e-6, 0.0);
  kernels_.head_rms_norm(x.matrix(), weight, 1e-6f, 0.0f);
  expect_close(x, expected);
}

TEST_P(RowsTest, RotaryTurnsTheLeadingFeatures) {
  const Batch batch = batch_of({5, 1, 8});
  for (const std::int64_t rotary_dim : {24, 10}) {
    RotaryTable table{8, rotary_dim, {}, {}};
    for (std::int64_t i = 0; i < 8 * rotary_dim / 2; ++i) {
      table.cos.push_back(static_cast<float>(std::cos(0.3 * static_cast<double>(i))));
      table.sin.push_back(static_cast<float>(std::sin(0.3 * static_cast<double>(i))));
    }
    const HostTensor x = random(batch.rows(), 3 * 24, 5);
    const Array expected = reference::rotary(batch, reference::from_matrix(x.matrix()), 24, table);
    kernels_.rotary(batch, x.matrix(), 24, table);
    expect_close(x, expected);
  }
}

TEST_P(RowsTest, GatedActivations) {
  const HostTensor gate = random(33, 50, 6, 3.0);
  const HostTensor up = random(33, 50, 7);
  for (const Activation activation :
       {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu}) {
    const Array expected = reference::gated_activation(activation, reference::from_matrix(gate.matrix()),
                                                       reference::from_matrix(up.matrix()));
    const HostTensor out = make_tensor(dtype(), {33, 50});
    kernels_.gated_activation(activation, gate.matrix(), up.matrix(), out.matrix());
    expect_close(out, expected);
  }
}

TEST_P(RowsTest, GatedActivationInPlace) {
  const HostTensor gate = random(3, 50, 8);
  const HostTensor up = random(3, 50, 9);
  const HostTensor out = make_tensor(dtype(), {3, 50});
  kernels_.gated_activation(Activation::silu, gate.matrix(), up.matrix(), out.matrix());
  kernels_.gated_activation(Activation::silu, gate.matrix(), up.matrix(), gate.matrix());
  EXPECT_EQ(bytes_of(gate), bytes_of(out));
}

TEST_P(RowsTest, ExtremeGates) {
  Array gate(1, 4);
  gate.values = {-200, 200, -1e30, 1e30};
  const HostTensor g = reference::to_tensor(gate, dtype());
  const HostTensor out = make_tensor(dtype(), {1, 4});
  Array ones(1, 4);
  ones.values.assign(4, 1);
  kernels_.gated_activation(Activation::silu, g.matrix(), reference::to_tensor(ones, dtype()).matrix(),
                            out.matrix());
  const Array got = reference::from_matrix(out.matrix());
  EXPECT_NEAR(got.at(0, 0), 0, 1e-30);
  EXPECT_NEAR(got.at(0, 1), 200, 1);
  EXPECT_TRUE(std::isfinite(got.at(0, 2)));
  EXPECT_GT(got.at(0, 3), 9e29);
}

TEST_P(RowsTest, EmbeddingRows) {
  const std::vector<std::int32_t> ids = {3, 0, 7, 3};
  for (const DType stored : {DType::f32, DType::f16, DType::bf16}) {
    const Array table = reference::random_array(8, 20, stored, 10);
    const HostTensor out = make_tensor(DType::f32, {4, 20});
    kernels_.embed(ids, reference::to_tensor(table, stored).matrix(), out.matrix());
    for (std::int64_t r = 0; r < 4; ++r) {
      for (std::int64_t c = 0; c < 20; ++c) {
        EXPECT_EQ(static_cast<double>(out.matrix().row<float>(r)[c]),
                  table.at(ids[static_cast<std::size_t>(r)], c));
      }
    }
  }
}

TEST_P(RowsTest, FindsWhatIsNotFinite) {
  for (const double bad : {static_cast<double>(NAN), static_cast<double>(-NAN), static_cast<double>(INFINITY),
                           -static_cast<double>(INFINITY)}) {
    Array x = reference::random_array(200, 33, dtype(), 11);
    EXPECT_TRUE(kernels_.all_finite(reference::to_tensor(x, dtype()).matrix()));
    x.at(150, 32) = bad;
    EXPECT_FALSE(kernels_.all_finite(reference::to_tensor(x, dtype()).matrix()));
  }
  const Array large = [] {
    Array one(1, 1);
    one.at(0, 0) = -3e38;
    return one;
  }();
  EXPECT_TRUE(kernels_.all_finite(reference::to_tensor(large, dtype()).matrix()));
}

GPTQ_FORWARD_SUITE(RowsTest);

}  // namespace
}  // namespace gptq
