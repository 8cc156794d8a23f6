// The pipeline keeps a stage group's input and its successor in the same memory.

#include <gtest/gtest.h>

#include "model/decoder_block.h"
#include "support/temp_directory.h"
#include "support/test_backend.h"
#include "support/tiny_model.h"

namespace gptq::test {
namespace {

class DecoderBlockInPlace : public testing::TestWithParam<Place>, protected OnBackend {
 protected:
  void SetUp() override { start(GetParam().backend, GetParam().dtype); }

  /// Runs the first block over two samples; `shared`: every group's input starts at the same address.
  std::string hidden_after_block(const ModelWeights& model, bool shared) const {
    const DType compute = GetParam().dtype;
    const DevicePositions rotary(backend(), model.config(), 40);
    const BlockWeights weights = model.load_block(0);
    DecoderBlock block(backend(), model, weights, rotary, compute);
    const Batch batch{{0, 40, 57}};
    reference::Array start(batch.rows(), model.config().hidden_size);
    for (std::size_t i = 0; i < start.values.size(); ++i)
      start.values[i] = static_cast<double>((i * 37) % 101) / 50.0 - 1.0;
    const TestMatrix hidden(backend(), start, DType::f32);

    std::int64_t widest = 0;
    for (std::int64_t group = 0; group < block.steps(); ++group)
      widest = std::max(widest, block.step_width(group));
    std::vector<TestMatrix> memory;
    for (std::int64_t group = 0; group < block.steps(); ++group)
      memory.emplace_back(backend(), compute, batch.rows(), widest);
    const auto input = [&](std::int64_t group) {
      const TestMatrix& place = memory[shared ? 0 : static_cast<std::size_t>(group)];
      const std::int64_t width = block.step_width(group);
      return Matrix{place.matrix().data, compute, batch.rows(), width, width};
    };
    block.enter(batch, hidden.matrix(), input(0));
    for (std::int64_t group = 0; group < block.steps(); ++group) {
      const bool last = group + 1 == block.steps();
      block.advance(group, batch, hidden.matrix(), input(group), last ? Matrix{} : input(group + 1));
    }
    EXPECT_TRUE(hidden.is_written());
    return hidden.bytes();
  }
};

TEST_P(DecoderBlockInPlace, GatedMlpDoesNotOverwriteAnInputThatSharesItsMemory) {
  TempDirectory directory;
  write_tiny_model(directory.path(), {});
  const ModelWeights model(directory.path());
  EXPECT_EQ(hidden_after_block(model, true), hidden_after_block(model, false));
}

INSTANTIATE_TEST_SUITE_P(Places, DecoderBlockInPlace, testing::ValuesIn(test_places()), name_of_place);

}  // namespace
}  // namespace gptq::test
