// The kernels of blocks that are no Llama's: layer norms, plain activations, fused heads, learned positions.

#include <cmath>

#include "kernels/forward_fixture.h"

namespace gptq {
namespace {

using reference::Array;

class LayerNormTest : public ForwardKernels {
 protected:
  static std::vector<float> floats(std::int64_t n, unsigned seed) {
    return reference::to_floats(reference::random_array(1, n, DType::f32, seed));
  }
  void run(const TestMatrix& x, std::int64_t features, const std::vector<float>& weight,
           const std::vector<float>& bias, const TestMatrix& y) const {
    const DeviceBuffer w = test::upload(backend(), weight), b = test::upload(backend(), bias);
    const std::span<const float> biases =
        bias.empty() ? std::span<const float>() : std::span(b.as<const float>(), bias.size());
    kernels().layer_norm(x.matrix(), features, {w.as<const float>(), weight.size()}, biases, 1e-5f,
                         y.matrix());
  }
};

TEST_P(LayerNormTest, OfTheResidualStream) {
  for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {70, 37}, {1, 1}, {3, 64}, {5, 1000}, {2, 4096}, {2, 5121}}) {
    for (const View view : kViews) {
      SCOPED_TRACE(testing::Message() << rows << " x " << cols << " from column " << view.columns_before);
      Array x = reference::random_array(rows, cols, DType::f32, 1, 3.0);
      for (double& value : x.values) value = static_cast<float>(value + 5);  // a mean to be removed
      const TestMatrix input(backend(), x, DType::f32, view);
      const TestMatrix y = poisoned(rows, cols, view), unbiased = poisoned(rows, cols, view);
      run(input, cols, floats(cols, 2), floats(cols, 3), y);
      expect_close(y, reference::layer_norm(x, cols, floats(cols, 2), floats(cols, 3), 1e-5));
      run(input, cols, floats(cols, 2), {}, unbiased);
      expect_close(unbiased, reference::layer_norm(x, cols, floats(cols, 2), {}, 1e-5));
    }
  }
}

TEST_P(LayerNormTest, OfEachHeadInPlace) {
  for (const std::int64_t dim : {16, 24, 80, 130}) {
    for (const bool shared : {true, false}) {
      for (const View view : kViews) {
        SCOPED_TRACE(testing::Message()
                     << dim << (shared ? " shared" : " each") << " from column " << view.columns_before);
        const std::int64_t size = shared ? dim : 3 * dim;
        const HostTensor host = random(9, 3 * dim, 3);
        const TestMatrix x = on_device(host, view);
        run(x, dim, floats(size, 4), floats(size, 5), x);
        expect_close(x, reference::layer_norm(reference::from_matrix(host.matrix()), dim, floats(size, 4),
                                              floats(size, 5), 1e-5));
      }
    }
  }
}

TEST_P(LayerNormTest, NaNStaysInItsRowAndNoRowsAreNoWork) {
  Array x = reference::random_array(3, 40, DType::f32, 1);
  x.at(1, 7) = NAN;
  const TestMatrix input(backend(), x, DType::f32), y = poisoned(3, 40), none = poisoned(0, 40);
  run(input, 40, floats(40, 1), {}, y);
  run(none, 40, floats(40, 1), {}, none);
  const Array got = y.array();
  for (std::int64_t r = 0; r < 3; ++r)
    for (std::int64_t c = 0; c < 40; ++c) EXPECT_EQ(std::isnan(got.at(r, c)), r == 1);
}

GPTQ_FORWARD_SUITE(LayerNormTest);

class ActivationTest : public ForwardKernels {};

TEST_P(ActivationTest, AgreesWithTheReference) {
  for (const auto& [rows, cols] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{33, 50}, {1, 1}, {2, 1025}, {0, 8}}) {
    const HostTensor x = random(rows, cols, 6, 3.0);
    for (const Activation kind :
         {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu}) {
      for (const View view : kViews) {
        SCOPED_TRACE(testing::Message() << cols << " columns from " << view.columns_before << ", activation "
                                        << static_cast<int>(kind));
        const Array expected = reference::activation(kind, reference::from_matrix(x.matrix()));
        const TestMatrix in = on_device(x, view), out = poisoned(rows, cols, view);
        kernels().activation(kind, in.matrix(), out.matrix());
        expect_close(out, expected);
        kernels().activation(kind, in.matrix(), in.matrix());
        EXPECT_EQ(in.bytes(), out.bytes());
      }
    }
  }
}

GPTQ_FORWARD_SUITE(ActivationTest);

class CopyHeadsTest : public ForwardKernels {};

// Three kinds of fused projections: heads of one kind, one after the other; each head's q, k, v together;
// groups of queries with their key and value.
TEST_P(CopyHeadsTest, TakesFusedProjectionsApart) {
  struct Case {
    HeadPattern from, to;
    std::int64_t heads, from_width, to_width;
  };
  for (const Case& one : std::vector<Case>{{{32, 16, 16}, {0, 16, 16}, 2, 64, 32},
                                           {{8, 24, 8}, {0, 8, 8}, 5, 120, 40},
                                           {{20, 60, 20}, {20, 40, 20}, 3, 180, 120},
                                           {{3, 0, 7}, {1, 9, 7}, 4, 10, 36},
                                           {{0, 130, 130}, {130, 260, 130}, 2, 260, 520}}) {
    for (const View view : kViews) {
      SCOPED_TRACE(testing::Message()
                   << one.heads << " heads of " << one.from.dim << " from column " << view.columns_before);
      const HostTensor host = random(37, one.from_width, 1), before = random(37, one.to_width, 2);
      const TestMatrix x = on_device(host, view), y = on_device(before, view);
      kernels().copy_heads(x.matrix(), one.from, y.matrix(), one.to, one.heads);
      const Array source = reference::from_matrix(host.matrix());
      Array expected = reference::from_matrix(before.matrix());
      for (std::int64_t r = 0; r < 37; ++r) {
        for (std::int64_t h = 0; h < one.heads; ++h) {
          for (std::int64_t d = 0; d < one.from.dim; ++d) {
            expected.at(r, one.to.first + h * one.to.pitch + d) =
                source.at(r, one.from.first + h * one.from.pitch + d);
          }
        }
      }
      EXPECT_EQ(y.array().values, expected.values);
      EXPECT_TRUE(y.is_written()) << "something around the matrix was touched";
    }
  }
}

GPTQ_FORWARD_SUITE(CopyHeadsTest);

class ElementsTest : public ForwardKernels {};

TEST_P(ElementsTest, ConvertRoundsOnce) {
  for (const std::int64_t cols : {1, 33, 64, 1000}) {
    for (const View view : kViews) {
      const Array x = reference::random_array(7, cols, DType::f32, 1, 3.0);
      const TestMatrix wide(backend(), x, DType::f32, view), narrow = poisoned(7, cols, view);
      kernels().convert(wide.matrix(), narrow.matrix());
      EXPECT_TRUE(narrow.is_written());
      EXPECT_EQ(narrow.bytes(), test::bytes_of(reference::to_tensor(x, dtype()))) << cols;
      const TestMatrix back(backend(), DType::f32, 7, cols, view), same = poisoned(7, cols, view);
      kernels().convert(narrow.matrix(), back.matrix());
      EXPECT_EQ(back.array().values, narrow.array().values);
      kernels().convert(narrow.matrix(), same.matrix());
      EXPECT_EQ(same.bytes(), narrow.bytes());
      EXPECT_TRUE(back.is_written() && same.is_written());
    }
  }
}

TEST_P(ElementsTest, ScaleAndAddScaled) {
  for (const std::int64_t cols : {1, 33, 64, 1000}) {
    for (const View view : kViews) {
      const Array a = reference::random_array(5, cols, DType::f32, 1),
                  b = reference::random_array(5, cols, DType::f32, 2);
      const TestMatrix y(backend(), a, DType::f32, view), hidden(backend(), b, DType::f32, view);
      kernels().add_scaled(y.matrix(), 0.37f, hidden.matrix());
      Array expected = b;
      for (std::size_t i = 0; i < a.values.size(); ++i)
        expected.values[i] += static_cast<double>(0.37f) * a.values[i];
      EXPECT_LT(reference::largest_difference(hidden.array(), expected), 1e-6);
      kernels().scale(y.matrix(), -2.5f);
      expected = a;
      for (double& value : expected.values) value *= -2.5;
      EXPECT_LT(reference::largest_difference(y.array(), expected), 1e-6);
      EXPECT_TRUE(y.is_written() && hidden.is_written());
    }
  }
}

TEST_P(ElementsTest, PositionsStartAnewInEverySample) {
  std::vector<std::int64_t> many(300, 2);
  for (const std::vector<std::int64_t>& lengths :
       {std::vector<std::int64_t>{5, 1, 0, 8}, many, std::vector<std::int64_t>{}}) {
    for (const std::int64_t cols : {20, 33, 2100}) {
      for (const View view : kViews) {
        const Batch batch = batch_of(lengths);
        const Array table = reference::random_array(10, cols, DType::f32, 1),
                    before = reference::random_array(batch.rows(), cols, DType::f32, 2);
        const TestMatrix on_table(backend(), table, DType::f32, view),
            hidden(backend(), before, DType::f32, view);
        kernels().add_positions(batch, on_table.matrix(), 2, hidden.matrix());
        Array expected = before;
        for (std::int64_t s = 0; s < batch.samples(); ++s) {
          for (std::int64_t r = batch.offsets[static_cast<std::size_t>(s)];
               r < batch.offsets[static_cast<std::size_t>(s + 1)]; ++r) {
            const std::int64_t p = r - batch.offsets[static_cast<std::size_t>(s)];
            for (std::int64_t c = 0; c < cols; ++c) expected.at(r, c) += table.at(2 + p, c);
          }
        }
        EXPECT_LT(reference::largest_difference(hidden.array(), expected), 1e-6);
        EXPECT_TRUE(hidden.is_written());
      }
    }
  }
}

GPTQ_FORWARD_SUITE(ElementsTest);

}  // namespace
}  // namespace gptq
