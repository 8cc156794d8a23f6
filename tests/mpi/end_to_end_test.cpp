// Losses and errors of held-out samples over the ranks: those of a naive computation, and the same on any
// number of ranks in every bit.

#include "pipeline/end_to_end.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/cpu_backend.h"
#include "mpi_world.h"
#include "support/reference_forward.h"
#include "support/temp_directory.h"
#include "support/tiny_model.h"

namespace gptq::test {
namespace {

using reference::Array;

constexpr std::int64_t kHeldOut = 4;
constexpr std::int64_t kChunkTokens = 12;
constexpr std::int64_t kHidden = 64;

class EndToEndTest : public testing::Test {
 protected:
  EndToEndTest() : backend_(make_cpu_backend(1)) {
    TinyModelOptions options;
    options.layers = 1;
    write_tiny_model(directory_.path(), options);
    model_ = std::make_unique<ModelWeights>(directory_.path());
    std::int32_t id = 5;
    for (const std::size_t length : {5, 7, 9, 3, 1, 8, 6}) {  // one of the last four has nothing to predict
      data_.samples.emplace_back();
      for (std::size_t i = 0; i < length; ++i) data_.samples.back().push_back(id = (id * 37 + 11) % 128);
    }
  }

  /// What leaves the last block, made up. seed: another stream.
  Array states_of(std::size_t sample, unsigned seed) const {
    const auto length = static_cast<std::int64_t>(data_.samples[sample].size());
    return reference::random_array(length, kHidden, DType::f32, seed + static_cast<unsigned>(sample));
  }

  Activations stream(const Communicator& comm, unsigned seed, bool held_out_alone) {
    std::vector<std::int64_t> lengths;
    for (const auto& sample : data_.samples) lengths.push_back(static_cast<std::int64_t>(sample.size()));
    const std::vector<Chunk> all = make_chunks(lengths, kChunkTokens, kHeldOut);
    const auto [first, last] = chunks_of_rank(all, comm.rank(), comm.size());
    std::vector<Chunk> own;
    for (std::size_t i = first; i < last; ++i) {
      if (all[i].held_out || !held_out_alone) own.push_back(all[i]);
    }
    Activations made(*backend_, data_, own, kHidden, 0, DType::f32, {});
    for (std::size_t i = 0; i < made.chunks(); ++i) {
      for (std::int64_t s = 0; s < made.chunk(i).samples; ++s) {
        const auto sample = static_cast<std::size_t>(made.chunk(i).first_sample + s);
        const HostTensor states = reference::to_tensor(states_of(sample, seed), DType::f32);
        made.write_hidden(i, made.batch(i).offsets[static_cast<std::size_t>(s)], states.matrix());
      }
    }
    return made;
  }

  HeldOutFigures measured(Communicator& comm, bool held_out_alone, unsigned reference_seed = 100,
                          const QuantizedLayer* head = nullptr) {
    PhaseClock phases(*backend_);
    Activations quantized = stream(comm, 1, false);
    Activations reference = stream(comm, reference_seed, held_out_alone);
    return EndToEnd(*model_, data_, *backend_, comm, quantized, reference, phases).measure(head);
  }

  double naive_perplexity(unsigned seed, const Array& head) const {
    const HostTensor norm = convert(model_->load_final_norm(), DType::f32);
    const std::vector<float> norm_weight = reference::to_floats(reference::from_matrix(norm.matrix()));
    double loss = 0;
    std::int64_t predictions = 0;
    for (std::size_t s = data_.samples.size() - kHeldOut; s < data_.samples.size(); ++s) {
      const std::vector<std::int32_t>& ids = data_.samples[s];
      std::vector<std::int32_t> targets(ids.begin() + 1, ids.end());
      targets.push_back(-1);
      const Array x = reference::rms_norm(states_of(s, seed), norm_weight, model_->config().norm_eps, 0);
      for (const double row : reference::cross_entropy(reference::linear(x, head, {}), targets)) loss += row;
      predictions += static_cast<std::int64_t>(ids.size()) - 1;
    }
    return std::exp(loss / static_cast<double>(predictions));
  }
  Array own_head() const { return reference::from_matrix(convert(model_->load_head(), DType::f32).matrix()); }

  TempDirectory directory_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<ModelWeights> model_;
  CalibrationData data_;
};

void expect_same_bits(const HeldOutFigures& a, const HeldOutFigures& b) {
  EXPECT_EQ(a.samples, b.samples);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.predictions, b.predictions);
  EXPECT_EQ(a.perplexity, b.perplexity);
  EXPECT_EQ(a.source_perplexity, b.source_perplexity);
  EXPECT_EQ(a.relative_hidden_error, b.relative_hidden_error);
}

TEST_F(EndToEndTest, FiguresAreTheNaiveOnes) {
  const HeldOutFigures figures = measured(world(), true);
  EXPECT_EQ(figures.samples, 4);
  EXPECT_EQ(figures.tokens, 3 + 1 + 8 + 6);
  EXPECT_EQ(figures.predictions, 2 + 0 + 7 + 5);
  const double wanted = naive_perplexity(1, own_head());
  const double source = naive_perplexity(100, own_head());
  ASSERT_GT(std::abs(wanted - source), 0.01 * wanted) << "the streams must be told apart";
  EXPECT_NEAR(figures.perplexity, wanted, 1e-4 * wanted);
  EXPECT_NEAR(figures.source_perplexity, source, 1e-4 * source);
  double error = 0, norm = 0;
  for (std::size_t s = data_.samples.size() - kHeldOut; s < data_.samples.size(); ++s) {
    const Array given = states_of(s, 1), reference = states_of(s, 100);
    for (std::size_t i = 0; i < given.values.size(); ++i) {
      error += (given.values[i] - reference.values[i]) * (given.values[i] - reference.values[i]);
      norm += reference.values[i] * reference.values[i];
    }
  }
  EXPECT_NEAR(figures.relative_hidden_error, error / norm, 1e-5 * error / norm);
}

TEST_F(EndToEndTest, AnyNumberOfRanksAndEitherReferenceGiveTheSameBits) {
  const auto alone = world().split(world().rank());
  const HeldOutFigures wanted = measured(*alone, true);
  expect_same_bits(measured(world(), true), wanted);
  expect_same_bits(measured(world(), false), wanted);
}

TEST_F(EndToEndTest, EqualStreamsHaveNoErrorAndOnePerplexity) {
  const HeldOutFigures figures = measured(world(), true, 1);
  EXPECT_EQ(figures.relative_hidden_error, 0);
  EXPECT_EQ(figures.perplexity, figures.source_perplexity);
}

TEST_F(EndToEndTest, AQuantizedHeadIsTheQuantizedModelsAlone) {
  const Array source = own_head();
  QuantizedLayer head;
  head.module = "lm_head";
  head.out_features = source.rows;
  head.in_features = source.cols;
  head.bits = 2;
  head.scales.assign(static_cast<std::size_t>(source.rows), to_f16(0.25F));
  head.zeros.assign(static_cast<std::size_t>(source.rows), 2);
  head.group_of.assign(static_cast<std::size_t>(source.cols), 0);
  Array coarse(source.rows, source.cols);
  for (std::size_t i = 0; i < source.values.size(); ++i) {
    const auto code = static_cast<int>(std::clamp(std::round(source.values[i] / 0.25) + 2, 0.0, 3.0));
    head.codes.push_back(static_cast<std::uint8_t>(code));
    coarse.values[i] = 0.25 * (code - 2);
  }
  const HeldOutFigures plain = measured(world(), true);
  const HeldOutFigures figures = measured(world(), true, 100, &head);
  const double wanted = naive_perplexity(1, coarse);
  ASSERT_GT(std::abs(wanted - plain.perplexity), 0.01 * wanted);
  EXPECT_NEAR(figures.perplexity, wanted, 1e-4 * wanted);
  EXPECT_EQ(figures.source_perplexity, plain.source_perplexity);
}

// Nothing to predict is not a perplexity of 1, and no reason to warn.
TEST_F(EndToEndTest, SamplesOfOneTokenHaveNoPerplexity) {
  for (auto& sample : data_.samples) sample.resize(1);
  const HeldOutFigures figures = measured(world(), true);
  EXPECT_EQ(figures.samples, 4);
  EXPECT_EQ(figures.predictions, 0);
  EXPECT_TRUE(std::isnan(figures.perplexity));
  EXPECT_TRUE(figures.is_finite());
  EXPECT_GT(figures.relative_hidden_error, 0);
}

}  // namespace
}  // namespace gptq::test
