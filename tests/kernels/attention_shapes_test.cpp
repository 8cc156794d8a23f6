#include <cmath>

#include "kernels/forward_fixture.h"

/// Shapes at which an implementation that is cut into tiles, template sizes and launches changes its way.
namespace gptq {
namespace {

class AttentionShapesTest : public ForwardKernels {
 protected:
  void expect_reference(const AttentionShape& shape, const std::vector<std::int64_t>& lengths) {
    SCOPED_TRACE(testing::Message() << shape.heads << " heads over " << shape.kv_heads << " of "
                                    << shape.head_dim << ", window " << shape.window << ", soft cap "
                                    << shape.logit_softcap);
    const Batch batch = batch_of(lengths);
    const auto make = [&](std::int64_t heads, unsigned seed) {
      return random(batch.rows(), heads * shape.head_dim, seed);
    };
    const HostTensor q = make(shape.heads, 5), k = make(shape.kv_heads, 6), v = make(shape.kv_heads, 7);
    const TestMatrix out = poisoned(batch.rows(), shape.heads * shape.head_dim);
    const TestMatrix on_q = on_device(q), on_k = on_device(k), on_v = on_device(v);
    kernels().attention(batch, shape, on_q.matrix(), on_k.matrix(), on_v.matrix(), out.matrix());
    expect_close(
        out, reference::attention(batch, shape, reference::from_matrix(q.matrix()),
                                  reference::from_matrix(k.matrix()), reference::from_matrix(v.matrix())));
  }

  static AttentionShape shape_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim,
                                 std::int64_t window = 0, float softcap = 0) {
    return {heads, kv_heads, head_dim, 1 / std::sqrt(static_cast<float>(head_dim)), window, softcap};
  }
};

TEST_P(AttentionShapesTest, MoreSamplesThanOneLaunchTakes) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t s = 0; s < 530; ++s) lengths.push_back(s % 4);
  expect_reference(shape_of(1, 1, 16), lengths);
}

TEST_P(AttentionShapesTest, HeadsWiderThanAnyTile) {
  for (const std::int64_t head_dim : {129, 257, 264, 300})
    expect_reference(shape_of(2, 1, head_dim), {70, 3});
}

TEST_P(AttentionShapesTest, WindowsAtEveryWidth) {
  for (const std::int64_t head_dim : {64, 96, 128, 192, 256}) {
    for (const std::int64_t window : {5, 64}) expect_reference(shape_of(1, 1, head_dim, window), {150});
  }
}

TEST_P(AttentionShapesTest, SoftCapsAtEveryWidth) {
  for (const std::int64_t head_dim : {64, 96, 128, 192, 256}) {
    expect_reference(shape_of(1, 1, head_dim, 0, 2), {70});
  }
}

TEST_P(AttentionShapesTest, EightQueryHeadsToOneKeyHead) {
  expect_reference(shape_of(8, 1, 128), {131, 0, 20});
}

GPTQ_FORWARD_SUITE(AttentionShapesTest);

}  // namespace
}  // namespace gptq
