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
    return {random(rows, shape.heads * shape.head_dim, 1), random(rows, shape.kv_heads * shape.head_dim, 2),
            random(rows, shape.kv_heads * shape.head_dim, 3)};
  }

  TestMatrix run(Backend& place, const Batch& batch, const AttentionShape& shape, const AttentionInput& in,
                 View view = {}) const {
    const TestMatrix q(place, in.q, view), k(place, in.k, view), v(place, in.v, view);
    TestMatrix out(place, dtype(), in.q.shape[0], in.q.shape[1], view);
    place.kernels().attention(batch, shape, q.matrix(), k.matrix(), v.matrix(), out.matrix());
    return out;
  }

  void expect_reference(const AttentionShape& shape, const std::vector<std::int64_t>& lengths,
                        View view = {}) {
    SCOPED_TRACE(testing::Message() << shape.heads << " heads over " << shape.kv_heads << " of "
                                    << shape.head_dim << ", window " << shape.window << ", from column "
                                    << view.columns_before);
    const Batch batch = batch_of(lengths);
    const AttentionInput in = input(shape, batch.rows());
    expect_close(
        run(backend(), batch, shape, in, view),
        reference::attention(batch, shape, reference::from_matrix(in.q.matrix()),
                             reference::from_matrix(in.k.matrix()), reference::from_matrix(in.v.matrix())));
  }

  static AttentionShape shape_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim,
                                 std::int64_t window = 0) {
    return {heads, kv_heads, head_dim, 1 / std::sqrt(static_cast<float>(head_dim)), window, 0};
  }
};

TEST_P(AttentionTest, OddLengths) {
  expect_reference(shape_of(2, 2, 16), {1, 7, 129, 300});
}
TEST_P(AttentionTest, LengthsAroundTiles) {
  expect_reference(shape_of(1, 1, 64), {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 130});
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
TEST_P(AttentionTest, HeadsOfManyWidths) {
  for (const std::int64_t head_dim : {8, 16, 20, 24, 32, 40, 64, 80, 96, 112, 128, 160, 192, 256})
    expect_reference(shape_of(2, 1, head_dim), {33, 70});
}
TEST_P(AttentionTest, WideHeadsOverSeveralTiles) {
  expect_reference(shape_of(1, 1, 128), {200});
  expect_reference(shape_of(1, 1, 256), {140});
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
TEST_P(AttentionTest, WindowsAroundTiles) {
  for (const std::int64_t window : {31, 32, 63, 64, 65, 127, 128, 129, 10000})
    expect_reference(shape_of(1, 1, 16, window), {257, 20});
}
TEST_P(AttentionTest, PartsOfWiderMatrices) {
  for (const View view : kViews) {
    expect_reference(shape_of(4, 2, 16), {5, 70}, view);
    expect_reference(shape_of(2, 1, 24, 9), {40}, view);
  }
}

TEST_P(AttentionTest, QueriesKeysAndValuesOfOneMatrix) {
  const AttentionShape shape = shape_of(4, 2, 32);
  const Batch batch = batch_of({20, 50});
  const HostTensor host = random(70, 8 * 32, 4);
  const TestMatrix all = on_device(host);
  const TestMatrix out = poisoned(70, 4 * 32);
  const auto part = [](const Matrix& m, std::int64_t first, std::int64_t heads) {
    return m.cols_from(first * 32, heads * 32);
  };
  kernels().attention(batch, shape, part(all.matrix(), 0, 4), part(all.matrix(), 4, 2),
                      part(all.matrix(), 6, 2), out.matrix());
  expect_close(out, reference::attention(batch, shape, reference::from_matrix(part(host.matrix(), 0, 4)),
                                         reference::from_matrix(part(host.matrix(), 4, 2)),
                                         reference::from_matrix(part(host.matrix(), 6, 2))));
}

TEST_P(AttentionTest, SoftCap) {
  AttentionShape shape = shape_of(2, 1, 32);
  shape.logit_softcap = 1.5f;
  expect_reference(shape, {150});
  shape.window = 40;
  shape.logit_softcap = 30;
  expect_reference(shape, {150});
}

TEST_P(AttentionTest, KeyBias) {
  struct Case {
    std::int64_t heads, kv_heads, dim, window, positions;
    float softcap;
    std::vector<std::int64_t> lengths;
  };
  for (const Case& one : std::vector<Case>{{4, 4, 16, 0, 131, 0, {1, 7, 131}},
                                           {6, 2, 64, 0, 300, 0, {129, 300, 0, 20}},
                                           {3, 1, 20, 9, 140, 0, {140}},
                                           {2, 1, 32, 0, 90, 5, {90, 33}},
                                           {2, 1, 264, 0, 70, 0, {70}}}) {
    AttentionShape shape = shape_of(one.heads, one.kv_heads, one.dim, one.window);
    shape.logit_softcap = one.softcap;
    shape.key_bias_positions = one.positions;
    std::vector<float> bias;
    for (std::int64_t h = 0; h < one.heads; ++h) {
      for (std::int64_t p = 0; p < one.positions; ++p)
        bias.push_back(static_cast<float>(0.03 * static_cast<double>(p) / static_cast<double>(h + 1)));
    }
    const DeviceBuffer device = test::upload(backend(), bias);
    shape.key_bias = device.as<const float>();
    SCOPED_TRACE(testing::Message() << one.heads << " heads of " << one.dim);
    const Batch batch = batch_of(one.lengths);
    const AttentionInput in = input(shape, batch.rows());
    const Array q = reference::from_matrix(in.q.matrix()), k = reference::from_matrix(in.k.matrix()),
                v = reference::from_matrix(in.v.matrix());
    const TestMatrix got = run(backend(), batch, shape, in);
    expect_close(got, reference::attention(batch, shape, q, k, v, bias));
    EXPECT_GT(reference::largest_difference(got.array(), reference::attention(batch, shape, q, k, v)),
              10 * tolerances().forward)
        << "the bias plays no part";
  }
}

TEST_P(AttentionTest, ManySamplesAndEmptyOnes) {
  std::vector<std::int64_t> lengths(70, 3);
  lengths[0] = lengths[7] = lengths.back() = 0;
  expect_reference(shape_of(2, 1, 16), lengths);
}

TEST_P(AttentionTest, OfNoRowsIsNoWork) {
  expect_reference(shape_of(2, 1, 16), {});
  expect_reference(shape_of(2, 1, 16), {0});
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  AttentionShape shape = shape_of(1, 1, 16);
  shape.scale = 40;
  const Array got = run(backend(), batch_of({200}), shape, input(shape, 200)).array();
  for (const double value : got.values) ASSERT_TRUE(std::isfinite(value));
}

TEST_P(AttentionTest, AllScoresFarBelowZero) {
  // Every score is -2e5 or so: subtracting anything but the largest underflows all weights.
  AttentionShape shape = shape_of(1, 1, 16);
  shape.scale = 1;
  Array q(90, 16), k(90, 16);
  q.values.assign(q.values.size(), -110);
  k.values.assign(k.values.size(), 110);
  const AttentionInput in{reference::to_tensor(q, dtype()), reference::to_tensor(k, dtype()),
                          random(90, 16, 3)};
  expect_close(run(backend(), batch_of({90}), shape, in),
               reference::attention(batch_of({90}), shape, q, k, reference::from_matrix(in.v.matrix())));
}

TEST_P(AttentionTest, NaNStaysInItsSample) {
  const AttentionShape shape = shape_of(2, 1, 16);
  const Batch batch = batch_of({10, 10});
  AttentionInput in = input(shape, 20);
  Array k = reference::from_matrix(in.k.matrix());
  k.at(0, 0) = NAN;
  in.k = reference::to_tensor(k, dtype());
  const Array got = run(backend(), batch, shape, in).array();
  EXPECT_TRUE(std::isnan(got.at(9, 0)));
  for (std::int64_t r = 10; r < 20; ++r) EXPECT_TRUE(std::isfinite(got.at(r, 0)));
}

TEST_P(AttentionTest, LaterTokensDoNotCount) {
  const AttentionShape shape = shape_of(2, 1, 16);
  AttentionInput in = input(shape, 70);
  const Array expected = run(backend(), batch_of({70}), shape, in).array();
  for (HostTensor* tensor : {&in.k, &in.v}) {
    Array changed = reference::from_matrix(tensor->matrix());
    for (std::int64_t c = 0; c < 16; ++c) changed.at(69, c) = changed.at(50, c) = 1e4;
    *tensor = reference::to_tensor(changed, dtype());
  }
  const Array got = run(backend(), batch_of({70}), shape, in).array();
  for (std::int64_t r = 0; r < 50; ++r)
    for (std::int64_t c = 0; c < 32; ++c) ASSERT_EQ(got.at(r, c), expected.at(r, c)) << "token " << r;
  EXPECT_NE(got.at(50, 0), expected.at(50, 0));
}

TEST_P(AttentionTest, TheSameBatchGivesTheSameBits) {
  const Batch batch = batch_of({129, 7, 100});
  for (const AttentionShape& shape : {shape_of(3, 1, 64), shape_of(2, 2, 20, 50)}) {
    const AttentionInput in = input(shape, batch.rows());
    const std::string first = run(backend(), batch, shape, in).bytes();
    run(backend(), batch_of({236}), shape, in);
    EXPECT_EQ(run(backend(), batch, shape, in, {0, 0, 1}).bytes(), first);
    EXPECT_EQ(run(*test::make_test_backend(GetParam().backend), batch, shape, in).bytes(), first);
  }
}

GPTQ_FORWARD_SUITE(AttentionTest);

class CpuAttentionTest : public AttentionTest {};

TEST_P(CpuAttentionTest, BitsDoNotDependOnThreadsOrOtherSamples) {
  const Batch batch = batch_of({129, 7, 300});
  for (const AttentionShape& shape : {shape_of(9, 3, 64), shape_of(4, 4, 16, 50)}) {
    const AttentionInput in = input(shape, batch.rows());
    std::vector<std::string> results;
    for (const int threads : {1, 2, 3})
      results.push_back(run(*test::make_test_backend("cpu", threads), batch, shape, in).bytes());
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
    std::string alone;
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      const AttentionInput part{sample_of(in.q, batch, s), sample_of(in.k, batch, s),
                                sample_of(in.v, batch, s)};
      alone += run(backend(), batch_of({part.q.shape[0]}), shape, part).bytes();
    }
    EXPECT_EQ(results[0], alone);
  }
}

GPTQ_CPU_FORWARD_SUITE(CpuAttentionTest);

}  // namespace
}  // namespace gptq
