#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/verify.h"
#include "io_checkpoint_support.h"
#include "support/places.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class InspectCheckpoint : public ::testing::Test {
 protected:
  InspectCheckpoint() {
    directory_.create();
    commit_generation(directory_, 7);
  }
  fs::path at(const std::string& name) const { return directory_.path() / name; }

  TempDirectory job_;
  CheckpointDirectory directory_{job_ / "checkpoint"};
};

TEST_F(InspectCheckpoint, ACheckpointDirectory) {
  EXPECT_THAT(inspect_path(directory_.path()),
              AllOf(HasSubstr("1 generation(s)"), HasSubstr("generation 7 of a checkpoint, good")));
}

TEST_F(InspectCheckpoint, AJobsDirectoryWithoutAModelYet) {
  EXPECT_THAT(inspect_path(job_.path()),
              AllOf(HasSubstr("a model in the making"), HasSubstr("generation 7 of a checkpoint, good")));
}

TEST_F(InspectCheckpoint, AJobsDirectoryWithAModel) {
  fs::copy(fixtures() / "llama", job_.path());
  EXPECT_THAT(inspect_path(job_.path()),
              AllOf(HasSubstr("type          llama"), Not(HasSubstr("in the making")),
                    HasSubstr("generation 7 of a checkpoint, good")));
  directory_.remove_all();
  EXPECT_THAT(inspect_path(job_.path()), Not(HasSubstr("checkpoint")));
}

TEST_F(InspectCheckpoint, EachKindOfFile) {
  EXPECT_THAT(inspect_path(at("gen-000007.json")), HasSubstr("generation 7 of a checkpoint, good"));
  EXPECT_THAT(inspect_path(at("gen-000007.h5")), HasSubstr("generation 7 of a checkpoint, good"));
  EXPECT_THAT(inspect_path(at("gen-000007-rank-0001.h5")), HasSubstr("a rank file of a checkpoint"));
}

TEST_F(InspectCheckpoint, WhatIsUnfinishedOrDamagedIsSaid) {
  fs::rename(at("gen-000007.h5"), at("gen-000007.h5.partial"));
  EXPECT_THAT(complaint<InputError>([&] { inspect_path(at("gen-000007.h5.partial")); }),
              HasSubstr("never finished"));
  flip(at("gen-000007.json"), 50);
  EXPECT_THAT(complaint<InputError>([&] { inspect_path(at("gen-000007.json")); }),
              HasSubstr("gen-000007.json"));
  EXPECT_THAT(inspect_path(directory_.path()), HasSubstr("generation 7: NOT GOOD"));
}

}  // namespace
}  // namespace gptq::test
