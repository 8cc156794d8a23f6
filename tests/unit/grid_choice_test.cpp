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

TEST(GridChoice, MoreThanOneStageIsRefused) {
  EXPECT_NO_THROW(require_one_stage({1, 4}));
  try {
    require_one_stage({2, 4});
    FAIL() << "two stages";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("2 stages of 4"), HasSubstr("leave parallel.stages")));
  }
}

}  // namespace
}  // namespace gptq
