// The pipeline keeps a stage group's input and its successor in the same memory.

#include <gtest/gtest.h>

#include <cstring>

#include "backend/backend.h"
#include "model/decoder_block.h"
#include "support/temp_directory.h"
#include "support/tiny_model.h"

namespace gptq::test {
namespace {

/// Runs the first block over two samples; `shared`: every group's input starts at the same address.
std::vector<std::byte> hidden_after_block(const ModelWeights& model, DType compute, bool shared) {
  const auto backend = make_backend({"cpu", 2});
  const RotaryTable rotary = make_rotary_table(model.config(), 40);
  const BlockWeights weights = model.load_block(0);
  DecoderBlock block(*backend, model, weights, rotary, compute);
  const Batch batch{{0, 40, 57}};
  HostTensor hidden = make_tensor(DType::f32, {batch.rows(), model.config().hidden_size});
  float* values = hidden.matrix().row<float>(0);
  for (std::int64_t i = 0; i < hidden.elements(); ++i) values[i] = static_cast<float>((i * 37) % 101) / 50.0f - 1.0f;

  std::int64_t widest = 0;
  for (std::int64_t group = 0; group < block.groups(); ++group) widest = std::max(widest, block.group_width(group));
  std::vector<HostTensor> memory;
  for (std::int64_t group = 0; group < block.groups(); ++group) {
    memory.push_back(make_tensor(compute, {batch.rows(), widest}));
  }
  const auto input = [&](std::int64_t group) {
    const HostTensor& place = memory[shared ? 0 : static_cast<std::size_t>(group)];
    const std::int64_t width = block.group_width(group);
    return Matrix{place.storage.data(), compute, batch.rows(), width, width};
  };
  block.enter(batch, hidden.matrix(), input(0));
  for (std::int64_t group = 0; group < block.groups(); ++group) {
    const bool last = group + 1 == block.groups();
    block.advance(group, batch, hidden.matrix(), input(group), last ? Matrix{} : input(group + 1));
  }
  return {hidden.storage.data(), hidden.storage.data() + hidden.storage.size()};
}

TEST(DecoderBlock, GatedMlpDoesNotOverwriteAnInputThatSharesItsMemory) {
  TempDirectory directory;
  write_tiny_model(directory.path(), {});
  const ModelWeights model(directory.path());
  for (const DType compute : {DType::f32, DType::bf16}) {
    if (compute == DType::bf16 && !make_backend({"cpu", 1})->fast_bf16()) continue;
    EXPECT_EQ(hidden_after_block(model, compute, true), hidden_after_block(model, compute, false));
  }
}

}  // namespace
}  // namespace gptq::test
