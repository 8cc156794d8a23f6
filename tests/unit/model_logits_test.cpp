#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>

#include "model/decoder_block.h"
#include "model/model_forward.h"
#include "support/test_backend.h"
#include "unit/model_fixture.h"

namespace gptq {
namespace {

using reference::Array;
using test::ExpectedLogits;
using test::TestMatrix;

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

using Fixture = std::tuple<std::string, const char*>;  // backend, model

const char* const kFixtures[] = {
    "llama",      "llama3",      "mistral",   "mistral_linear", "qwen2",     "qwen3",
    "qwen3_yarn", "gemma3_text", "gemma2",    "phi3",           "phi3_long", "olmo2",
    "granite",    "smollm3",     "opt",       "gpt2",           "gpt_neox",  "gpt_neox_sequential",
    "falcon_7b",  "falcon_40b",  "falcon_rw", "bloom",          "stablelm",  "stablelm_parallel"};

class LogitsTest : public testing::TestWithParam<Fixture>, protected test::OnBackend {
 protected:
  void SetUp() override { start(std::get<0>(GetParam())); }

  std::string bytes(Backend& place, const Batch& batch, std::span<const std::int32_t> ids,
                    DType compute) const {
    return test::bytes_of(logits(place, model_, batch, ids, compute));
  }

  ExpectedLogits expected_{std::get<1>(GetParam())};
  ModelWeights model_{test::fixture_path(std::get<1>(GetParam()))};
};

TEST_P(LogitsTest, AgreeWithTransformersInF32) {
  model_.check();
  const HostTensor got = logits(backend(), model_, expected_.batch, expected_.ids, DType::f32);
  EXPECT_LT(largest_gap(reference::from_matrix(got.matrix()), expected_.logits),
            test::tolerances_of(backend().name()).logits);
}

TEST_P(LogitsTest, AreCloseInBf16) {
  start(std::get<0>(GetParam()), DType::bf16);
  if (IsSkipped()) return;
  const HostTensor got = logits(backend(), model_, expected_.batch, expected_.ids, DType::bf16);
  EXPECT_LT(relative_gap(reference::from_matrix(got.matrix()), expected_.logits), 0.03);
}

TEST_P(LogitsTest, LossesAreThoseOfTheLogits) {
  const auto losses = token_losses(backend(), model_, expected_.batch, expected_.ids, DType::f32);
  std::vector<std::int32_t> targets(expected_.ids.begin() + 1, expected_.ids.end());
  targets.push_back(-1);
  for (std::size_t s = 1; s < expected_.batch.offsets.size(); ++s) {
    targets[static_cast<std::size_t>(expected_.batch.offsets[s] - 1)] = -1;
  }
  const std::vector<double> wanted = reference::cross_entropy(expected_.logits, targets);
  const double tolerance = test::tolerances_of(backend().name()).loss;
  for (std::size_t i = 0; i < losses.size(); ++i)
    EXPECT_NEAR(losses[i], wanted[i], tolerance) << "token " << i;
}

TEST_P(LogitsTest, TheSameBatchGivesTheSameBits) {
  const auto fresh = test::make_test_backend(std::get<0>(GetParam()), 3);
  const std::string first = bytes(backend(), expected_.batch, expected_.ids, DType::f32);
  EXPECT_EQ(bytes(backend(), expected_.batch, expected_.ids, DType::f32), first);
  EXPECT_EQ(bytes(*fresh, expected_.batch, expected_.ids, DType::f32), first);
}

std::string name_of_fixture(const testing::TestParamInfo<Fixture>& info) {
  return std::get<0>(info.param) + "_" + std::get<1>(info.param);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LogitsTest,
                         testing::Combine(testing::ValuesIn(test::test_backends()),
                                          testing::ValuesIn(kFixtures)),
                         name_of_fixture);

/// What only the CPU promises: a sample's bits do not depend on the other samples of its batch.
class CpuLogitsTest : public LogitsTest {};

TEST_P(CpuLogitsTest, BitsDoNotDependOnThreadsOrOtherSamples) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    start("cpu", compute);
    if (IsSkipped()) return;
    const auto one = test::make_test_backend("cpu", 1);
    const auto three = test::make_test_backend("cpu", 3);
    const std::string together = bytes(*one, expected_.batch, expected_.ids, compute);
    EXPECT_EQ(together, bytes(*three, expected_.batch, expected_.ids, compute));
    std::string alone;
    for (std::int64_t s = 0; s < expected_.batch.samples(); ++s) {
      const std::int64_t first = expected_.batch.offsets[static_cast<std::size_t>(s)];
      const std::int64_t end = expected_.batch.offsets[static_cast<std::size_t>(s + 1)];
      Batch single;
      single.offsets.push_back(end - first);
      const std::span<const std::int32_t> ids(expected_.ids.data() + first,
                                              static_cast<std::size_t>(end - first));
      alone += bytes(*one, single, ids, compute);
    }
    EXPECT_EQ(together, alone);
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, CpuLogitsTest,
                         testing::Combine(testing::Values("cpu"), testing::ValuesIn(kFixtures)),
                         name_of_fixture);

/// The first block of fixtures whose blocks differ in form; Qwen3's attention width is not the hidden size.
class DecoderBlockTest : public testing::TestWithParam<Fixture>, protected test::OnBackend {
 protected:
  void SetUp() override {
    start(std::get<0>(GetParam()));
    if (IsSkipped() || HasFatalFailure()) return;
    rotary_ = DevicePositions(backend(), model_.config(), 32);
    block_ = std::make_unique<DecoderBlock>(backend(), model_, weights_, rotary_, DType::f32);
  }

  TestMatrix hidden() const {
    return {backend(),
            reference::random_array(expected_.batch.rows(), model_.config().hidden_size, DType::f32, 1),
            DType::f32};
  }
  std::string forward(DecoderBlock& block) const {
    const TestMatrix result = hidden();
    block.forward(expected_.batch, result.matrix());
    EXPECT_TRUE(result.is_written());
    return result.bytes();
  }
  /// The same in steps; input(group) is where each group's input lies.
  std::string step_by_step(const std::function<Matrix(std::int64_t)>& input) const {
    const TestMatrix stream = hidden();
    block_->enter(expected_.batch, stream.matrix(), input(0));
    for (std::int64_t g = 0; g < block_->steps(); ++g) {
      const Matrix next = g + 1 < block_->steps() ? input(g + 1) : Matrix{};
      block_->advance(g, expected_.batch, stream.matrix(), input(g), next);
    }
    return stream.bytes();
  }

  ExpectedLogits expected_{std::get<1>(GetParam())};
  ModelWeights model_{test::fixture_path(std::get<1>(GetParam()))};
  BlockWeights weights_ = model_.load_block(0);
  DevicePositions rotary_;
  std::unique_ptr<DecoderBlock> block_;
};

TEST_P(DecoderBlockTest, StepByStepIsTheSameAsAtOnce) {
  std::vector<TestMatrix> inputs;
  for (std::int64_t g = 0; g < block_->steps(); ++g) {
    EXPECT_EQ(block_->step_width(g), model_.layout(0).steps[static_cast<std::size_t>(g)].width);
    inputs.emplace_back(backend(), DType::f32, expected_.batch.rows(), block_->step_width(g));
  }
  EXPECT_EQ(step_by_step([&](std::int64_t g) { return inputs[static_cast<std::size_t>(g)].matrix(); }),
            forward(*block_));
  for (const TestMatrix& input : inputs) EXPECT_TRUE(input.is_written());
}

TEST_P(DecoderBlockTest, InputAndNextInputMayShareMemory) {
  const std::int64_t rows = expected_.batch.rows();
  std::int64_t widest = 0;
  for (std::int64_t g = 0; g < block_->steps(); ++g) widest = std::max(widest, block_->step_width(g));
  const TestMatrix memory(backend(), DType::f32, rows, widest);
  const auto view = [&](std::int64_t g) {
    return Matrix{memory.matrix().data, DType::f32, rows, block_->step_width(g), block_->step_width(g)};
  };
  EXPECT_EQ(step_by_step(view), forward(*block_));
}

/// A layer that gives nothing: all codes at the zero point.
struct ZeroLayer {
  std::vector<std::uint8_t> codes, zeros;
  std::vector<f16> scales;
  std::vector<std::int32_t> group_of;
  QuantizedWeights view;

  ZeroLayer(std::int64_t out, std::int64_t in)
      : codes(static_cast<std::size_t>(out * in), 8),
        zeros(static_cast<std::size_t>(out), 8),
        scales(static_cast<std::size_t>(out), to_f16(1)),
        group_of(static_cast<std::size_t>(in), 0),
        view{out, in, 1, codes.data(), scales.data(), zeros.data(), group_of.data()} {}
};

TEST_P(DecoderBlockTest, AnExchangedWeightIsUsed) {
  const std::string before = forward(*block_);
  for (const LinearShape& layer : model_.layout(0).layers()) {
    const std::vector<std::int64_t>& shape = weights_.at(layer.name + ".weight").shape;
    const ZeroLayer zero(shape[0], shape[1]);
    DecoderBlock block(backend(), model_, weights_, rotary_, DType::f32);
    block.set_linear(layer.name, zero.view);
    EXPECT_NE(forward(block), before) << layer.name;
    block_->set_linear(layer.name, zero.view);
  }
  // Without its layers a block adds nothing to the residual stream but the biases of those that write to it.
  const std::vector<BlockStep>& steps = model_.layout(0).steps;
  const bool biased = std::any_of(steps.begin(), steps.end(), [](const BlockStep& step) {
    return step.writes_residual && step.groups.front().layers.front().bias;
  });
  EXPECT_EQ(forward(*block_) == hidden().bytes(), !biased);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, DecoderBlockTest,
                         testing::Combine(testing::ValuesIn(test::test_backends()),
                                          testing::Values("qwen3", "gemma3_text", "olmo2", "gpt_neox",
                                                          "stablelm_parallel")),
                         name_of_fixture);

}  // namespace
}  // namespace gptq
