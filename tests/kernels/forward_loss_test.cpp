#include <cmath>

#include "kernels/forward_fixture.h"

namespace gptq {
namespace {

using reference::Array;

class CrossEntropyTest : public ForwardKernels {
 protected:
  std::vector<double> run(Backend& place, const Batch& batch, const HostTensor& x, const HostTensor& head,
                          const std::vector<std::int32_t>& targets, View view = {},
                          const LogitForm& form = {}) const {
    const auto weights = place.kernels().prepare_linear(head.matrix(), {}, dtype());
    const TestMatrix input(place, x, view);
    std::vector<double> losses(targets.size(), NAN);
    place.kernels().cross_entropy(batch, input.matrix(), *weights, targets, losses, form);
    return losses;
  }
  void expect_reference(const std::vector<double>& losses, const HostTensor& x, const HostTensor& head,
                        const std::vector<std::int32_t>& targets, const LogitForm& form = {}) const {
    const Array logits =
        reference::linear(reference::from_matrix(x.matrix()), reference::from_matrix(head.matrix()), {});
    const std::vector<double> expected = reference::cross_entropy(logits, targets, form);
    for (std::size_t r = 0; r < losses.size(); ++r) {
      if (targets[r] < 0)
        EXPECT_EQ(losses[r], 0.0);
      else
        EXPECT_NEAR(losses[r], expected[r], tolerances().loss) << "row " << r;
    }
  }
  static std::vector<std::int32_t> some_targets(std::int64_t rows, std::int64_t vocabulary) {
    std::vector<std::int32_t> targets;
    for (std::int64_t r = 0; r < rows; ++r) targets.push_back(static_cast<std::int32_t>(r * 37 % vocabulary));
    targets[0] = 0;
    targets[rows > 2 ? 2 : 0] = -1;
    targets.back() = static_cast<std::int32_t>(vocabulary - 1);
    return targets;
  }
};

TEST_P(CrossEntropyTest, AgreesWithTheReference) {
  const Batch batch = batch_of({3, 140});
  const HostTensor x = random(batch.rows(), 32, 1);
  for (const std::int64_t vocabulary : {1, 80, 2500}) {
    const HostTensor head = random(vocabulary, 32, 2);
    const auto targets = some_targets(batch.rows(), vocabulary);
    for (const View view : kViews)
      expect_reference(run(backend(), batch, x, head, targets, view), x, head, targets);
  }
}

TEST_P(CrossEntropyTest, OddSizes) {
  const Batch batch = batch_of({1, 0, 6});
  const HostTensor x = random(7, 45, 3);
  const HostTensor head = random(1031, 45, 4, 0.3);
  const auto targets = some_targets(7, 1031);
  expect_reference(run(backend(), batch, x, head, targets), x, head, targets);
}

TEST_P(CrossEntropyTest, ScaledAndCappedLogits) {
  const Batch batch = batch_of({3, 130});
  const HostTensor x = random(batch.rows(), 32, 1);
  for (const std::int64_t vocabulary : {81, 2500}) {
    const HostTensor head = random(vocabulary, 32, 2);
    const auto targets = some_targets(batch.rows(), vocabulary);
    for (const LogitForm& form : {LogitForm{0.25f, 0}, LogitForm{1, 4}, LogitForm{0.5f, 3}})
      expect_reference(run(backend(), batch, x, head, targets, {}, form), x, head, targets, form);
  }
}

TEST_P(CrossEntropyTest, LargeLogitsDoNotOverflow) {
  const HostTensor x = random(9, 16, 5, 40);
  const HostTensor head = random(200, 16, 6);
  for (const double loss : run(backend(), batch_of({9}), x, head, some_targets(9, 200))) {
    EXPECT_TRUE(std::isfinite(loss));
    EXPECT_GE(loss, 0);
  }
}

TEST_P(CrossEntropyTest, NaNShowsInItsRowAlone) {
  Array values = reference::random_array(5, 16, dtype(), 7);
  values.at(2, 3) = NAN;
  const auto losses = run(backend(), batch_of({5}), reference::to_tensor(values, dtype()), random(50, 16, 8),
                          {1, 2, 3, 4, 5});
  for (std::size_t r = 0; r < losses.size(); ++r) EXPECT_EQ(std::isnan(losses[r]), r == 2) << "row " << r;
}

TEST_P(CrossEntropyTest, WithoutTargetsOrRowsThereIsNoLoss) {
  const HostTensor head = random(50, 16, 8);
  EXPECT_EQ(run(backend(), batch_of({3}), random(3, 16, 9), head, {-1, -1, -1}), std::vector<double>(3, 0.0));
  EXPECT_TRUE(run(backend(), batch_of({}), random(0, 16, 9), head, {}).empty());
}

TEST_P(CrossEntropyTest, TheSameBatchGivesTheSameBits) {
  const Batch batch = batch_of({70, 73});
  const HostTensor x = random(batch.rows(), 33, 1);
  const HostTensor head = random(700, 33, 2);
  const auto targets = some_targets(batch.rows(), 700);
  const auto first = run(backend(), batch, x, head, targets);
  EXPECT_EQ(run(backend(), batch, x, head, targets, {0, 0, 1}), first);
  EXPECT_EQ(run(*test::make_test_backend(GetParam().backend, 3), batch, x, head, targets), first);
}

GPTQ_FORWARD_SUITE(CrossEntropyTest);

}  // namespace
}  // namespace gptq
