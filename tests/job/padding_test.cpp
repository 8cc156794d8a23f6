// Padding of calibration samples: it costs nothing and changes nothing.
#include "base/error.h"
#include "job_fixture.h"

namespace gptq::test {
namespace {

using testing::HasSubstr;

using PaddedCalibration = JobTest;

TEST_F(PaddedCalibration, OnTheLeftGivesTheSameModelAsOnTheRight) {
  const auto expected = hashes_of_run("right", 1, 1);
  write_calibration(path("calibration.h5"), 6, 48, TinyModelOptions().vocab, 1, /*ragged=*/true,
                    Padding::masked_left);
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(hashes_of_run("left", 2, 1), expected);
}

TEST_F(PaddedCalibration, ShortSamplesAreLeftOutAndCounted) {
  const ProgramResult result = quantize({"--set", "calibration.min_length=40"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("calibration samples of fewer than 40 tokens are left out"));
  const ProgramResult refused = quantize({"--set", "calibration.min_length=49"});
  EXPECT_EQ(refused.exit_code, static_cast<int>(ExitCode::bad_input)) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("0 of them of at least 49 tokens"));
}

}  // namespace
}  // namespace gptq::test
