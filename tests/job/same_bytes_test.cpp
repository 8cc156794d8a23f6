// The law of the project: the output's bytes do not depend on ranks or threads.

#include "job_fixture.h"

namespace gptq::test {
namespace {

class SameBytes : public JobTest, public testing::WithParamInterface<const char*> {};

TEST_P(SameBytes, ForAnyRanksAndThreads) {
  const std::vector<std::string> dtype{"--set", std::string("compute.dtype=") + GetParam()};
  const auto reference = hashes_of_run("one", 1, 1, dtype);
  ASSERT_FALSE(reference.empty());
  EXPECT_EQ(hashes_of_run("one-two-threads", 1, 2, dtype), reference);
  EXPECT_EQ(hashes_of_run("two", 2, 1, dtype), reference);
  EXPECT_EQ(hashes_of_run("two-two-threads", 2, 2, dtype), reference);
  EXPECT_EQ(hashes_of_run("three", 3, 1, dtype), reference);
  EXPECT_EQ(hashes_of_run("four", 4, 1, dtype), reference);
}

INSTANTIATE_TEST_SUITE_P(ComputeTypes, SameBytes, testing::Values("fp32", "bf16"));

using SameBytesRotated = JobTest;

TEST_F(SameBytesRotated, ForAnyRanksAndThreads) {
  const std::vector<std::string> rotated{"--set", "quantization.rotation=hadamard"};
  const auto reference = hashes_of_run("one", 1, 1, rotated);
  ASSERT_FALSE(reference.empty());
  EXPECT_EQ(hashes_of_run("two-two-threads", 2, 2, rotated), reference);
  EXPECT_EQ(hashes_of_run("three", 3, 1, rotated), reference);
}

using MoreRanksThanSamples = JobTest;

TEST_F(MoreRanksThanSamples, IdleRanksHelpWithTheSolve) {
  const std::vector<std::string> few{"--set", "calibration.num_samples=2"};
  EXPECT_EQ(hashes_of_run("four", 4, 1, few), hashes_of_run("one", 1, 1, few));
}

using OutputBytes = JobTest;

TEST_F(OutputBytes, DependOnTheBits) {
  EXPECT_NE(hashes_of_run("four-bit", 1, 1),
            hashes_of_run("three-bit", 1, 1, {"--set", "quantization.bits=3"}));
}

}  // namespace
}  // namespace gptq::test
