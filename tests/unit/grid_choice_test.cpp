#include "pipeline/grid_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gptq {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string refusal(const ParallelSection& section, int ranks) {
  try {
    grid_of(section, ranks);
    return "";
  } catch (const UsageError& error) {
    return error.what();
  }
}

TEST(GridChoice, WhatIsNotGivenFollowsFromTheRanks) {
  EXPECT_EQ(grid_of({}, 1), (GridShape{1, 1}));
  EXPECT_EQ(grid_of({}, 6), (GridShape{1, 6}));
  EXPECT_EQ(grid_of({2, 0, "auto"}, 6), (GridShape{2, 3}));
  EXPECT_EQ(grid_of({0, 2, "auto"}, 6), (GridShape{3, 2}));
  EXPECT_EQ(grid_of({6, 1, "auto"}, 6), (GridShape{6, 1}));
}

TEST(GridChoice, ImpossibleShapesNameTheNearest) {
  EXPECT_THAT(refusal({3, 0, "auto"}, 8), AllOf(HasSubstr("parallel.stages: 3"), HasSubstr("2 or 4")));
  EXPECT_THAT(refusal({0, 12, "auto"}, 8),
              AllOf(HasSubstr("parallel.replicas: 12"), HasSubstr("nearest that does: 8")));
  EXPECT_THAT(refusal({2, 2, "auto"}, 8), AllOf(HasSubstr("makes 4 ranks"), HasSubstr("there are 8")));
}

JobConfig job_of(const std::string& method, const std::string& propagation, const std::string& solvers) {
  JobConfig job;
  job.quantization.method = method;
  job.quantization.propagation = propagation;
  job.parallel.solvers = solvers;
  return job;
}

TEST(GridChoice, StagesHelpWhereTheyTakeTurns) {
  EXPECT_TRUE(stages_help(job_of("gptq", "quantized", "auto")));
  EXPECT_TRUE(stages_help(job_of("gptq", "quantized", "world")));
  EXPECT_FALSE(stages_help(job_of("gptq", "quantized", "stage")));
  EXPECT_FALSE(stages_help(job_of("gptq", "full_precision", "auto")));
  EXPECT_FALSE(stages_help(job_of("rtn", "quantized", "auto")));
}

TEST(GridChoice, BusyStagesCannotHelp) {
  for (const auto& [method, propagation] : {std::pair{"gptq", "full_precision"}, {"rtn", "quantized"}}) {
    try {
      stages_help(job_of(method, propagation, "world"));
      FAIL() << method;
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("parallel.solvers: world"), HasSubstr("leave")));
    }
  }
}

}  // namespace
}  // namespace gptq
