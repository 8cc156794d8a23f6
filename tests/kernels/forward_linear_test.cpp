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
  HostTensor run(Kernels& kernels, const Batch& batch, const HostTensor& x, const LinearWeights& weights,
                 DType out_type, bool accumulate) {
    HostTensor y = make_tensor(out_type, {batch.rows(), weights.out_features()});
    std::memset(y.storage.data(), 0, y.storage.size());
    if (accumulate) {
      for (std::int64_t i = 0; i < y.elements(); ++i) reinterpret_cast<float*>(y.storage.data())[i] = 0.5f;
    }
    kernels.linear(batch, x.matrix(), weights, y.matrix(), accumulate);
    return y;
  }
};

TEST_P(LinearTest, AgreesWithTheReference) {
  // Samples shorter and longer than a tile, outputs in one panel and in several, odd sizes.
  const Batch batch = batch_of({1, 300, 31, 256});
  for (const auto& [out, in, bias, accumulate] : {LinearCase{48, 32, false, false},
                                                  {96, 64, true, false},
                                                  {50, 33, true, true},
                                                  {64, 200, false, true},
                                                  {2112, 32, true, false},
                                                  {2112, 32, false, true}}) {
    const Array x = reference::random_array(batch.rows(), in, dtype(), 1);
    const Array w = reference::random_array(out, in, dtype(), 2, 1 / std::sqrt(static_cast<double>(in)));
    std::vector<float> b;
    if (bias) b = reference::to_floats(reference::random_array(1, out, DType::f32, 3));
    Array expected = reference::linear(x, w, b);
    for (double& value : expected.values) value += accumulate ? 0.5 : 0.0;

    const auto weights = kernels_.prepare_linear(reference::to_tensor(w, dtype()).matrix(), b, dtype());
    const DType out_type = accumulate ? DType::f32 : dtype();
    const HostTensor y =
        run(kernels_, batch, reference::to_tensor(x, dtype()), *weights, out_type, accumulate);
    EXPECT_LT(reference::largest_difference(reference::from_matrix(y.matrix()), expected), tolerance())
        << out << " x " << in << " bias " << bias << " accumulate " << accumulate;
  }
}

TEST_P(LinearTest, ReadsAndWritesPartsOfWiderMatrices) {
  const Batch batch = batch_of({40, 256});
  const HostTensor wide =
      reference::to_tensor(reference::random_array(batch.rows(), 100, dtype(), 4), dtype());
  const Matrix x = wide.matrix().cols_from(20, 64);
  const Array w = reference::random_array(48, 64, dtype(), 5);
  const auto weights = kernels_.prepare_linear(reference::to_tensor(w, dtype()).matrix(), {}, dtype());
  const HostTensor target = reference::to_tensor(Array(batch.rows(), 80), DType::f32);
  kernels_.linear(batch, x, *weights, target.matrix().cols_from(16, 48), false);

  const Array expected = reference::linear(reference::from_matrix(x), w, {});
  const Array got = reference::from_matrix(target.matrix());
  EXPECT_LT(
      reference::largest_difference(reference::from_matrix(target.matrix().cols_from(16, 48)), expected),
      1e-4);
  for (std::int64_t r = 0; r < got.rows; ++r) {
    ASSERT_EQ(got.at(r, 15), 0.0);
    ASSERT_EQ(got.at(r, 64), 0.0);
  }
}

TEST_P(LinearTest, TakesWeightsOfAnyFloatingType) {
  const Batch batch = batch_of({5});
  const Array x = reference::random_array(5, 32, dtype(), 6);
  for (const DType stored : {DType::f32, DType::f16, DType::bf16}) {
    const Array w = reference::random_array(16, 32, DType::bf16, 7, 0.25);
    const auto weights = kernels_.prepare_linear(reference::to_tensor(w, stored).matrix(), {}, dtype());
    const HostTensor y = run(kernels_, batch, reference::to_tensor(x, dtype()), *weights, DType::f32, false);
    const double bound = stored == DType::f16 ? 1e-3 : 1e-5;
    EXPECT_LT(reference::largest_difference(reference::from_matrix(y.matrix()), reference::linear(x, w, {})),
              bound);
  }
}

TEST_P(LinearTest, BitsDoNotDependOnThreadsOrOtherSamples) {
  const Batch batch = batch_of({70, 513, 1});
  const HostTensor x = reference::to_tensor(reference::random_array(batch.rows(), 576, dtype(), 8), dtype());
  const HostTensor w = reference::to_tensor(reference::random_array(192, 576, dtype(), 9), dtype());
  for (const bool accumulate : {false, true}) {
    const DType out = accumulate ? DType::f32 : dtype();
    std::vector<std::string> results;
    for (const int threads : {1, 2, 3}) {
      CpuKernels kernels(threads);
      results.push_back(bytes_of(
          run(kernels, batch, x, *kernels.prepare_linear(w.matrix(), {}, dtype()), out, accumulate)));
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
    std::string alone;
    const auto weights = kernels_.prepare_linear(w.matrix(), {}, dtype());
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      const HostTensor part = sample_of(x, batch, s);
      alone += bytes_of(run(kernels_, batch_of({part.shape[0]}), part, *weights, out, accumulate));
    }
    EXPECT_EQ(results[0], alone);
  }
}

GPTQ_FORWARD_SUITE(LinearTest);

class CrossEntropyTest : public ForwardKernels {};

TEST_P(CrossEntropyTest, AgreesWithTheReference) {
  const Batch batch = batch_of({3, 140});
  const Array x = reference::random_array(batch.rows(), 32, dtype(), 1);
  for (const std::int64_t vocabulary : {80, 2500}) {
    const Array head = reference::random_array(vocabulary, 32, dtype(), 2);
    std::vector<std::int32_t> targets;
    for (std::int64_t r = 0; r < batch.rows(); ++r)
      targets.push_back(static_cast<std::int32_t>(r * 37 % vocabulary));
    targets[2] = -1;
    targets.back() = static_cast<std::int32_t>(vocabulary - 1);
    const auto weights = kernels_.prepare_linear(reference::to_tensor(head, dtype()).matrix(), {}, dtype());
    std::vector<double> losses(targets.size());
    kernels_.cross_entropy(batch, reference::to_tensor(x, dtype()).matrix(), *weights, targets, losses);

    const std::vector<double> expected = reference::cross_entropy(reference::linear(x, head, {}), targets);
    for (std::size_t r = 0; r < losses.size(); ++r) EXPECT_NEAR(losses[r], expected[r], 1e-4) << "row " << r;
    EXPECT_EQ(losses[2], 0.0);

    CpuKernels other(3);
    std::vector<double> again(targets.size());
    other.cross_entropy(batch, reference::to_tensor(x, dtype()).matrix(), *weights, targets, again);
    EXPECT_EQ(losses, again);
  }
}

GPTQ_FORWARD_SUITE(CrossEntropyTest);

}  // namespace
}  // namespace gptq
