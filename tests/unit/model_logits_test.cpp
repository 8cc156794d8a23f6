#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backend/backend.h"
#include "kernels/cpu/machine.h"
#include "model/decoder_block.h"
#include "model/model_forward.h"
#include "unit/model_fixture.h"

namespace gptq {
namespace {

using reference::Array;
using test::ExpectedLogits;

double largest_gap(const Array& a, const Array& b) {
  double gap = a.values.size() == b.values.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(a.values.size(), b.values.size()); ++i) {
    const double here = std::abs(a.values[i] - b.values[i]);
    if (!(here <= gap)) gap = std::isnan(here) ? INFINITY : here;
  }
  return gap;
}

/// |a - b| / |b|
double relative_gap(const Array& a, const Array& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < b.values.size(); ++i) {
    difference += (a.values.at(i) - b.values[i]) * (a.values.at(i) - b.values[i]);
    size += b.values[i] * b.values[i];
  }
  return std::sqrt(difference / size);
}

std::string bytes_of(const HostTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.storage.data()),
          static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype)};
}

class LogitsTest : public testing::TestWithParam<std::string> {
 protected:
  ExpectedLogits expected_{GetParam()};
  ModelWeights model_{test::fixture_path(GetParam())};
};

TEST_P(LogitsTest, AgreeWithTransformersInF32) {
  model_.check();
  const auto backend = make_backend({"cpu", 2});
  const HostTensor got = logits(*backend, model_, expected_.batch, expected_.ids, DType::f32);
  EXPECT_LT(largest_gap(reference::from_matrix(got.matrix()), expected_.logits), 1e-4);
}

TEST_P(LogitsTest, AreCloseInBf16) {
  if (!machine_has_bf16()) GTEST_SKIP() << "no bf16 products on this machine";
  const auto backend = make_backend({"cpu", 2});
  const HostTensor got = logits(*backend, model_, expected_.batch, expected_.ids, DType::bf16);
  EXPECT_LT(relative_gap(reference::from_matrix(got.matrix()), expected_.logits), 0.03);
}

TEST_P(LogitsTest, LossesAreThoseOfTheLogits) {
  const auto backend = make_backend({"cpu", 2});
  const auto losses = token_losses(*backend, model_, expected_.batch, expected_.ids, DType::f32);
  std::vector<std::int32_t> targets(expected_.ids.begin() + 1, expected_.ids.end());
  targets.push_back(-1);
  for (std::size_t s = 1; s < expected_.batch.offsets.size(); ++s) {
    targets[static_cast<std::size_t>(expected_.batch.offsets[s] - 1)] = -1;
  }
  const std::vector<double> wanted = reference::cross_entropy(expected_.logits, targets);
  for (std::size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], wanted[i], 1e-4) << "token " << i;
}

TEST_P(LogitsTest, BitsDoNotDependOnThreadsOrOtherSamples) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    if (compute == DType::bf16 && !machine_has_bf16()) continue;
    const auto one = make_backend({"cpu", 1});
    const auto three = make_backend({"cpu", 3});
    const std::string together = bytes_of(logits(*one, model_, expected_.batch, expected_.ids, compute));
    EXPECT_EQ(together, bytes_of(logits(*three, model_, expected_.batch, expected_.ids, compute)));
    std::string alone;
    for (std::int64_t s = 0; s < expected_.batch.samples(); ++s) {
      const std::int64_t first = expected_.batch.offsets[static_cast<std::size_t>(s)];
      const std::int64_t end = expected_.batch.offsets[static_cast<std::size_t>(s + 1)];
      Batch single;
      single.offsets.push_back(end - first);
      const std::span<const std::int32_t> ids(expected_.ids.data() + first,
                                              static_cast<std::size_t>(end - first));
      alone += bytes_of(logits(*one, model_, single, ids, compute));
    }
    EXPECT_EQ(together, alone);
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LogitsTest,
                         testing::Values("llama", "llama3", "mistral", "mistral_linear", "qwen2", "qwen3",
                                         "qwen3_yarn"),
                         [](const auto& test) { return test.param; });

/// One block of the Qwen3 fixture, whose attention width differs from the hidden size.
class DecoderBlockTest : public testing::Test {
 protected:
  ExpectedLogits expected_{"qwen3"};
  ModelWeights model_{test::fixture_path("qwen3")};
  std::unique_ptr<Backend> backend_ = make_backend({"cpu", 2});
  BlockWeights weights_ = model_.load_block(0);
  RotaryTable rotary_ = make_rotary_table(model_.config(), 32);

  HostTensor hidden() const {
    return reference::to_tensor(
        reference::random_array(expected_.batch.rows(), model_.config().hidden_size, DType::f32, 1),
        DType::f32);
  }
  HostTensor forward(DecoderBlock& block) const {
    HostTensor result = hidden();
    block.forward(expected_.batch, result.matrix());
    return result;
  }
};

TEST_F(DecoderBlockTest, GroupByGroupIsTheSameAsAtOnce) {
  DecoderBlock block(*backend_, model_, weights_, rotary_, DType::f32);
  const std::string at_once = bytes_of(forward(block));

  ASSERT_EQ(block.groups(), 4);
  const HostTensor stream = hidden();
  std::vector<HostTensor> inputs;
  for (std::int64_t g = 0; g < 4; ++g) {
    EXPECT_EQ(block.group_width(g), model_.groups()[static_cast<std::size_t>(g)].in_features);
    inputs.push_back(make_tensor(DType::f32, {expected_.batch.rows(), block.group_width(g)}));
  }
  block.enter(expected_.batch, stream.matrix(), inputs[0].matrix());
  for (std::size_t g = 0; g < 4; ++g) {
    const Matrix next = g < 3 ? inputs[g + 1].matrix() : Matrix{};
    block.advance(static_cast<std::int64_t>(g), expected_.batch, stream.matrix(), inputs[g].matrix(), next);
  }
  EXPECT_EQ(bytes_of(stream), at_once);
}

TEST_F(DecoderBlockTest, InputAndNextInputMayShareMemory) {
  DecoderBlock block(*backend_, model_, weights_, rotary_, DType::f32);
  const std::string at_once = bytes_of(forward(block));
  const HostTensor stream = hidden();
  const std::int64_t rows = expected_.batch.rows();
  std::int64_t widest = 0;
  for (std::int64_t g = 0; g < 4; ++g) widest = std::max(widest, block.group_width(g));
  const HostTensor memory = make_tensor(DType::f32, {rows, widest});
  const auto view = [&](std::int64_t g) {
    return Matrix{memory.storage.data(), DType::f32, rows, block.group_width(g), block.group_width(g)};
  };
  block.enter(expected_.batch, stream.matrix(), view(0));
  for (std::int64_t g = 0; g < 4; ++g) {
    block.advance(g, expected_.batch, stream.matrix(), view(g), g < 3 ? view(g + 1) : Matrix{});
  }
  EXPECT_EQ(bytes_of(stream), at_once);
}

TEST_F(DecoderBlockTest, AnExchangedWeightIsUsed) {
  DecoderBlock block(*backend_, model_, weights_, rotary_, DType::f32);
  const std::string before = bytes_of(forward(block));
  for (const StageGroup& group : model_.groups()) {
    for (const LinearShape& layer : group.layers) {
      const HostTensor& original = weights_.at(layer.name + ".weight");
      HostTensor zero = make_tensor(DType::f32, original.shape);
      std::memset(zero.storage.data(), 0, zero.storage.size());
      block.set_linear(layer.name, zero.matrix());
      EXPECT_NE(bytes_of(forward(block)), before) << layer.name;
      block.set_linear(layer.name, original.matrix());
      EXPECT_EQ(bytes_of(forward(block)), before) << layer.name;
    }
  }
}

}  // namespace
}  // namespace gptq
