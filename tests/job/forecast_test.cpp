// Plans on described machines, from outside: what is shown, what a job says of its prediction, what is
// measured.

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "job_fixture.h"
#include "support/places.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Forecasts : public JobTest {
 protected:
  static std::string described(const std::string& name) {
    return (configs() / "machines" / (name + ".yaml")).string();
  }
  static nlohmann::json json_of(const std::string& path) {
    return nlohmann::json::parse(std::ifstream(path));
  }
};

TEST_F(Forecasts, SayTimeByPhaseAndWhereFiguresComeFrom) {
  const ProgramResult result =
      run_program({"plan", job(), "--machine", described("two-core-amd"), "--json", path("plan.json")});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("forecast on two-core-amd (NOT measured: "),
                                   HasSubstr("1 stage(s) x 2 replica(s)"), HasSubstr("limited by")));
  const nlohmann::json plan = json_of(path("plan.json"));
  EXPECT_EQ(plan.at("ranks"), 2);
  EXPECT_GT(plan.at("seconds").get<double>(), 0);
  EXPECT_GT(plan.at("phases").at("hessian").get<double>(), 0);
  EXPECT_TRUE(plan.at("quantizable").get<bool>());
  EXPECT_FALSE(std::filesystem::exists(path("output")));
}

TEST_F(Forecasts, AGridOfStagesIsTakenWhereItIsAskedFor) {
  const ProgramResult result = run_program({"plan", job(), "--machine", described("two-core-amd"), "--json",
                                            path("plan.json"), "--set", "parallel.stages=2"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("2 stage(s) x 1 replica(s)"));
  EXPECT_TRUE(json_of(path("plan.json")).at("quantizable").get<bool>());
}

TEST_F(Forecasts, AJobReportsWhatWasPredictedOfIt) {
  const ProgramResult result =
      quantize({"--machine", described("two-core-amd"), "--set", "compute.backend=cpu"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("predicted by two-core-amd"), HasSubstr("off by")));
  const nlohmann::json plan = json_of(path("output") + "/report.json").at("plan");
  EXPECT_THAT(plan.at("machine").get<std::string>(), HasSubstr("NOT measured"));
  for (const char* phase : {"forward", "hessian", "factor", "solve"}) {
    EXPECT_GT(plan.at("phases").at(phase).at("predicted").get<double>(), 0) << phase;
    EXPECT_GT(plan.at("phases").at(phase).at("actual").get<double>(), 0) << phase;
  }
}

TEST_F(Forecasts, AMachineOfAnotherKindIsRefusedBeforeTheWork) {
  const ProgramResult result = quantize({"--machine", described("h100-8"), "--set", "compute.backend=cpu"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_usage)) << result.output;
  EXPECT_THAT(result.output, HasSubstr("describes a machine of H100"));
}

TEST_F(Forecasts, WhatIsMeasuredIsADescription) {
  ProgramResult result = run_program({"plan", job(), "--measure", path("here.yaml")}, 2);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  result = run_program({"plan", job(), "--machine", path("here.yaml")});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("(measured by plan --measure "));
  result = run_program({"plan", job(), "--measure", path("here.yaml")});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_usage)) << result.output;
  EXPECT_THAT(result.output, HasSubstr("one rank has no links to measure"));
}

}  // namespace
}  // namespace gptq::test
