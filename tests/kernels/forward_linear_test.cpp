#include <cmath>

#include "kernels/forward_fixture.h"

namespace gptq {
namespace {

using reference::Array;

struct LinearCase {
  std::int64_t out, in;
  bool bias, accumulate;
};

class LinearTest : public ForwardKernels {
 protected:
  /// y after y = x·Wᵀ + b, or after adding that to halves.
  TestMatrix run(Backend& place, const Batch& batch, const Matrix& x, const LinearWeights& weights,
                 DType out_type, bool accumulate, View view = {}) {
    if (accumulate) {
      Array halves(batch.rows(), weights.out_features());
      halves.values.assign(halves.values.size(), 0.5);
      TestMatrix y(place, halves, out_type, view);
      place.kernels().linear(batch, x, weights, y.matrix(), true);
      return y;
    }
    TestMatrix y(place, out_type, batch.rows(), weights.out_features(), view);
    place.kernels().linear(batch, x, weights, y.matrix(), false);
    return y;
  }

  std::unique_ptr<LinearWeights> prepare(Backend& place, const HostTensor& w,
                                         const std::vector<float>& bias = {}) {
    return place.kernels().prepare_linear(w.matrix(), bias, dtype());
  }

  void expect_reference(const Batch& batch, const LinearCase& shape, View view = {}) {
    const auto& [out, in, bias, accumulate] = shape;
    SCOPED_TRACE(testing::Message() << out << " x " << in << " bias " << bias << " accumulate " << accumulate
                                    << " columns before " << view.columns_before);
    const Array x = reference::random_array(batch.rows(), in, dtype(), 1);
    const Array w = reference::random_array(out, in, dtype(), 2, 1 / std::sqrt(static_cast<double>(in)));
    std::vector<float> b;
    if (bias) b = reference::to_floats(reference::random_array(1, out, DType::f32, 3));
    Array expected = reference::linear(x, w, b);
    for (double& value : expected.values) value += accumulate ? 0.5 : 0.0;

    const auto weights = prepare(backend(), reference::to_tensor(w, dtype()), b);
    EXPECT_EQ(weights->in_features(), in);
    EXPECT_EQ(weights->out_features(), out);
    const DType out_type = accumulate ? DType::f32 : dtype();
    const TestMatrix input(backend(), x, dtype(), view);
    expect_close(run(backend(), batch, input.matrix(), *weights, out_type, accumulate, view), expected);
  }
};

TEST_P(LinearTest, AgreesWithTheReference) {
  // Samples shorter and longer than a tile, outputs in one panel and in several, odd sizes.
  const Batch batch = batch_of({1, 300, 31, 256});
  for (const LinearCase& shape : {LinearCase{48, 32, false, false},
                                  {96, 64, true, false},
                                  {50, 33, true, true},
                                  {51, 35, true, false},
                                  {64, 200, false, true},
                                  {2112, 32, true, false},
                                  {2112, 32, false, true}}) {
    expect_reference(batch, shape);
  }
}

TEST_P(LinearTest, OddAndSmallestSizes) {
  for (const LinearCase& shape : {LinearCase{1, 1, true, false},
                                  {1, 64, false, true},
                                  {64, 1, true, true},
                                  {3, 257, false, false},
                                  {7, 9, true, false},
                                  {130, 127, false, true}}) {
    expect_reference(batch_of({1}), shape);
    expect_reference(batch_of({3, 0, 14}), shape);
  }
}

TEST_P(LinearTest, ReadsAndWritesPartsOfWiderMatrices) {
  const Batch batch = batch_of({40, 70});
  for (const View view : kViews) {
    expect_reference(batch, {48, 64, true, false}, view);
    expect_reference(batch, {48, 64, false, true}, view);
    expect_reference(batch, {31, 45, true, false}, view);
    expect_reference(batch, {31, 45, false, true}, view);
  }
}

TEST_P(LinearTest, WritesFloatsFromBothTypes) {
  const Batch batch = batch_of({20, 5});
  const Array x = reference::random_array(25, 64, dtype(), 4);
  const Array w = reference::random_array(48, 64, dtype(), 5);
  const auto weights = prepare(backend(), reference::to_tensor(w, dtype()));
  const TestMatrix input(backend(), x, dtype());
  const TestMatrix y = run(backend(), batch, input.matrix(), *weights, DType::f32, false);
  EXPECT_TRUE(y.is_written());
  // Products of bf16 are exact in f32: no rounding to the compute type anywhere.
  EXPECT_LT(reference::largest_difference(y.array(), reference::linear(x, w, {})),
            test::tolerances_of(GetParam().backend, DType::f32).forward);
}

TEST_P(LinearTest, TakesWeightsOfAnyFloatingType) {
  const Batch batch = batch_of({5});
  const Array x = reference::random_array(5, 32, dtype(), 6);
  for (const DType stored : {DType::f32, DType::f16, DType::bf16}) {
    const Array w = reference::random_array(16, 32, DType::bf16, 7, 0.25);
    const HostTensor wide = reference::to_tensor(w, stored);
    const TestMatrix input(backend(), x, dtype());
    const auto weights = prepare(backend(), wide);
    const TestMatrix y = run(backend(), batch, input.matrix(), *weights, DType::f32, false);
    const double bound = stored == DType::f16 ? 1e-3 : 1e-5;
    EXPECT_LT(reference::largest_difference(y.array(), reference::linear(x, w, {})), bound);

    const Matrix part = wide.matrix().cols_from(3, 17).rows_from(1, 9);  // host rows with a stride
    const Array narrow_x = reference::random_array(5, 17, dtype(), 8);
    const TestMatrix narrow(backend(), narrow_x, dtype());
    const auto narrow_weights = kernels().prepare_linear(part, {}, dtype());
    const TestMatrix narrow_y = run(backend(), batch, narrow.matrix(), *narrow_weights, DType::f32, false);
    EXPECT_LT(reference::largest_difference(narrow_y.array(),
                                            reference::linear(narrow_x, reference::from_matrix(part), {})),
              bound);
  }
}

TEST_P(LinearTest, OfNoRowsIsNoWork) {
  const auto weights = prepare(backend(), random(16, 8, 9));
  for (const Batch& batch : {batch_of({}), batch_of({0, 0})}) {
    const TestMatrix x = poisoned(0, 8);
    const TestMatrix y = run(backend(), batch, x.matrix(), *weights, dtype(), false);
    EXPECT_TRUE(y.is_written());
  }
}

TEST_P(LinearTest, TheSameBatchGivesTheSameBits) {
  // 33 columns: rows begin at any multiple of the element's size, wherever the batch lies.
  for (const std::int64_t in : {64, 33}) {
    const Batch batch = batch_of({70, 130, 1});
    const HostTensor x = random(batch.rows(), in, 8);
    const HostTensor w = random(192, in, 9);
    for (const bool accumulate : {false, true}) {
      const DType out = accumulate ? DType::f32 : dtype();
      const auto weights = prepare(backend(), w);
      const TestMatrix input = on_device(x);
      const std::string first = run(backend(), batch, input.matrix(), *weights, out, accumulate).bytes();
      for (const std::int64_t rows_before : {0, 1, 5}) {
        const View view{0, 0, rows_before};
        const TestMatrix elsewhere = on_device(x, view);
        run(backend(), batch_of({7}), elsewhere.matrix().rows_from(3, 7), *weights, out, accumulate);
        EXPECT_EQ(run(backend(), batch, elsewhere.matrix(), *weights, out, accumulate, view).bytes(), first)
            << in << " columns, " << rows_before << " rows before the batch";
      }
      const auto fresh = test::make_test_backend(GetParam().backend);
      const TestMatrix copy(*fresh, x);
      const auto again = prepare(*fresh, w);
      EXPECT_EQ(run(*fresh, batch, copy.matrix(), *again, out, accumulate).bytes(), first);
    }
  }
}

GPTQ_FORWARD_SUITE(LinearTest);

class CpuLinearTest : public LinearTest {};

TEST_P(CpuLinearTest, BitsDoNotDependOnThreadsOrOtherSamples) {
  const Batch batch = batch_of({70, 513, 1});
  const HostTensor x = random(batch.rows(), 576, 8);
  const HostTensor w = random(192, 576, 9);
  for (const bool accumulate : {false, true}) {
    const DType out = accumulate ? DType::f32 : dtype();
    std::vector<std::string> results;
    for (const int threads : {1, 2, 3}) {
      const auto place = test::make_test_backend("cpu", threads);
      results.push_back(run(*place, batch, x.matrix(), *prepare(*place, w), out, accumulate).bytes());
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
    std::string alone;
    const auto weights = prepare(backend(), w);
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      const HostTensor part = sample_of(x, batch, s);
      alone += run(backend(), batch_of({part.shape[0]}), part.matrix(), *weights, out, accumulate).bytes();
    }
    EXPECT_EQ(results[0], alone);
  }
}

GPTQ_CPU_FORWARD_SUITE(CpuLinearTest);

}  // namespace
}  // namespace gptq
