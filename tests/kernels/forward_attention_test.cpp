#include <cmath>

#include "kernels/forward_fixture.h"

namespace gptq {
namespace {

using reference::Array;

struct AttentionInput {
  HostTensor q, k, v;
};

class AttentionTest : public ForwardKernels {
 protected:
  AttentionInput input(const AttentionShape& shape, std::int64_t rows) const {
    const auto make = [&](std::int64_t heads, unsigned seed) {
      return reference::to_tensor(reference::random_array(rows, heads * shape.head_dim, dtype(), seed),
                                  dtype());
    };
    return {make(shape.heads, 1), make(shape.kv_heads, 2), make(shape.kv_heads, 3)};
  }

  HostTensor run(Kernels& kernels, const Batch& batch, const AttentionShape& shape,
                 const AttentionInput& in) const {
    HostTensor out = make_tensor(dtype(), in.q.shape);
    kernels.attention(batch, shape, in.q.matrix(), in.k.matrix(), in.v.matrix(), out.matrix());
    return out;
  }

  void expect_reference(const AttentionShape& shape, const std::vector<std::int64_t>& lengths) {
    const Batch batch = batch_of(lengths);
    const AttentionInput in = input(shape, batch.rows());
    const Array expected =
        reference::attention(batch, shape, reference::from_matrix(in.q.matrix()),
                             reference::from_matrix(in.k.matrix()), reference::from_matrix(in.v.matrix()));
    const Array got = reference::from_matrix(run(kernels_, batch, shape, in).matrix());
    EXPECT_LT(reference::largest_difference(got, expected), tolerance());
  }

  static AttentionShape shape_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim,
                                 std::int64_t window = 0) {
    return {heads, kv_heads, head_dim, 1 / std::sqrt(static_cast<float>(head_dim)), window, 0};
  }
};

TEST_P(AttentionTest, OddLengths) {
  expect_reference(shape_of(2, 2, 16), {1, 7, 129, 300});
}
TEST_P(AttentionTest, GroupedQueries) {
  expect_reference(shape_of(9, 3, 64), {5, 130});
}
TEST_P(AttentionTest, ManyQueryHeadsToOneKeyHead) {
  expect_reference(shape_of(7, 1, 24), {140});
}
TEST_P(AttentionTest, SixQueryHeadsToOneKeyHead) {
  expect_reference(shape_of(12, 2, 8), {131});
}
TEST_P(AttentionTest, WideHeads) {
  expect_reference(shape_of(2, 1, 80), {33});
}
TEST_P(AttentionTest, NarrowWindow) {
  expect_reference(shape_of(4, 2, 16, 3), {1, 2, 4, 270});
}
TEST_P(AttentionTest, WindowOfOneTokenCopiesItsValue) {
  expect_reference(shape_of(2, 1, 16, 1), {9, 200});
}
TEST_P(AttentionTest, WindowAcrossTiles) {
  expect_reference(shape_of(2, 2, 16, 150), {420});
}
TEST_P(AttentionTest, WindowOfOneTile) {
  expect_reference(shape_of(2, 2, 16, 128), {385});
}

TEST_P(AttentionTest, SoftCap) {
  AttentionShape shape = shape_of(2, 1, 32);
  shape.logit_softcap = 1.5f;
  expect_reference(shape, {150});
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  AttentionShape shape = shape_of(1, 1, 16);
  shape.scale = 40;
  const Batch batch = batch_of({200});
  const Array got = reference::from_matrix(run(kernels_, batch, shape, input(shape, 200)).matrix());
  for (const double value : got.values) ASSERT_TRUE(std::isfinite(value));
}

TEST_P(AttentionTest, NaNStaysInItsSample) {
  const AttentionShape shape = shape_of(2, 1, 16);
  const Batch batch = batch_of({10, 10});
  AttentionInput in = input(shape, 20);
  const HostTensor nan = reference::to_tensor(
      [] {
        Array one(1, 1);
        one.at(0, 0) = NAN;
        return one;
      }(),
      dtype());
  std::memcpy(in.k.storage.data(), nan.storage.data(), size_of(dtype()));
  const Array got = reference::from_matrix(run(kernels_, batch, shape, in).matrix());
  EXPECT_TRUE(std::isnan(got.at(9, 0)));
  for (std::int64_t r = 10; r < 20; ++r) EXPECT_TRUE(std::isfinite(got.at(r, 0)));
}

TEST_P(AttentionTest, BitsDoNotDependOnThreadsOrOtherSamples) {
  const Batch batch = batch_of({129, 7, 300});
  for (const AttentionShape& shape : {shape_of(9, 3, 64), shape_of(4, 4, 16, 50)}) {
    const AttentionInput in = input(shape, batch.rows());
    std::vector<std::string> results;
    for (const int threads : {1, 2, 3}) {
      CpuKernels kernels(threads);
      results.push_back(bytes_of(run(kernels, batch, shape, in)));
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
    std::string alone;
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      const AttentionInput part{sample_of(in.q, batch, s), sample_of(in.k, batch, s),
                                sample_of(in.v, batch, s)};
      alone += bytes_of(run(kernels_, batch_of({part.q.shape[0]}), shape, part));
    }
    EXPECT_EQ(results[0], alone);
  }
}

GPTQ_FORWARD_SUITE(AttentionTest);

}  // namespace
}  // namespace gptq
