// An interrupted job goes on: from anywhere, on other ranks, to the same bytes; or says why it cannot.

#include <nlohmann/json.hpp>

#include "io/job_lock.h"
#include "model/safetensors_reader.h"
#include "resume_fixture.h"

namespace gptq::test {
namespace {

using testing::HasSubstr;
using testing::Not;

struct ResumeCase {
  const char* name;
  const char* lines;  ///< of the `quantization` section
  std::vector<std::string> set;
  std::vector<int> generations;  ///< after which the job is interrupted
};

void PrintTo(const ResumeCase& test, std::ostream* out) {
  *out << test.name;
}

class ResumeRecipes : public Resume, public testing::WithParamInterface<ResumeCase> {};

TEST_P(ResumeRecipes, GiveTheSameBytesWhereverTheyWereInterrupted) {
  write_job(GetParam().lines);
  const auto expected = hashes_of_run("undisturbed", 2, 1, GetParam().set);
  const int ranks_of_resume[] = {3, 1, 2, 7};
  int turn = 0;
  for (const int generation : GetParam().generations) {
    fs::remove_all(path("output"));
    ASSERT_EQ(interrupt(generation, SIGKILL, GetParam().set), 128 + SIGKILL);
    const int ranks = ranks_of_resume[turn++ % 4];
    const ProgramResult resumed = quantize(GetParam().set, ranks);
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_THAT(resumed.output, HasSubstr("resuming from generation"));
    EXPECT_EQ(tensor_hashes(path("output")), expected)
        << "after generation " << generation << " on " << ranks;
    EXPECT_EQ(run_program({"verify", path("output")}).exit_code, 0);
    EXPECT_FALSE(fs::exists(checkpoint()));
  }
}

// Two blocks of four stage groups, three chunks of samples: twelve safe points a block, one for
// round-to-nearest.
INSTANTIATE_TEST_SUITE_P(
    Recipes, ResumeRecipes,
    testing::Values(
        ResumeCase{"sequential", "", {}, {1, 3, 6, 12, 13, 20}},
        ResumeCase{"not_sequential", "  true_sequential: false\n", {}, {2, 7, 11, 15}},
        ResumeCase{"desc_act", "  desc_act: true\n  act_group_aware: false\n", {}, {8}},
        ResumeCase{"fp32", "", {"--set", "compute.dtype=fp32"}, {5, 16}},
        ResumeCase{"bf16", "", {"--set", "compute.dtype=bf16"}, {9}},
        ResumeCase{"exclude", "  exclude: [\"re:.*down_proj\", \"re:.*o_proj\"]\n", {}, {4, 7}},
        ResumeCase{"small_files", "", {"--set", "output.max_shard_bytes=60000"}, {2, 14, 22}},
        ResumeCase{"rtn", "  method: rtn\n", {}, {1}},
        ResumeCase{"correction",
                   "  correction_alpha: 1\n  token_weight: residual\n  refine_sweeps: 1\n",
                   {"--set", "calibration.held_out=0.2"},
                   {3, 9, 14}},
        ResumeCase{
            "correction_not_sequential", "  correction_alpha: 0.5\n  true_sequential: false\n", {}, {8}},
        ResumeCase{"rotation", "  rotation: hadamard\n  exclude: ['o_proj']\n", {}, {4, 14}},
        ResumeCase{"dequantized",
                   "  rotation: hadamard\n",
                   {"--set", "output.format=dequantized", "--set", "output.max_shard_bytes=60000"},
                   {6, 17}}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(Resume, ManyInterruptionsOnChangingRanks) {
  const auto expected = hashes_of_run("undisturbed", 1, 1);
  for (const int generation : {2, 5, 9, 14, 19}) ASSERT_EQ(interrupt(generation, SIGUSR1), kComeBack);
  const ProgramResult last = quantize({}, 4);
  ASSERT_EQ(last.exit_code, 0) << last.output;
  EXPECT_EQ(tensor_hashes(path("output")), expected);
  const auto report = nlohmann::json::parse(std::ifstream(path("output") + "/report.json"));
  EXPECT_EQ(report.at("attempts"), 6);
  EXPECT_EQ(report.at("layers").size(), 14u);
}

class StopSignals : public Resume, public testing::WithParamInterface<int> {};

TEST_P(StopSignals, EndTheJobWithACheckpoint) {
  const auto expected = hashes_of_run("undisturbed", 1, 1);
  ASSERT_EQ(interrupt(3, GetParam()), kComeBack);
  std::ifstream log(path("interrupted.log"));
  const std::string said((std::istreambuf_iterator<char>(log)), std::istreambuf_iterator<char>());
  EXPECT_THAT(said, HasSubstr("run the same command again"));
  EXPECT_FALSE(fs::exists(path("output") + "/config.json"));
  const ProgramResult resumed = quantize({}, 2);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_EQ(tensor_hashes(path("output")), expected);
}

INSTANTIATE_TEST_SUITE_P(All, StopSignals, testing::Values(SIGTERM, SIGINT, SIGUSR1),
                         [](const auto& test) { return std::string(sigabbrev_np(test.param)); });

TEST_F(Resume, OtherOptionsAreRefusedWithTheKeysThatDiffer) {
  ASSERT_EQ(interrupt(3, SIGUSR1), kComeBack);
  const ProgramResult other =
      quantize({"--set", "quantization.bits=3", "--set", "quantization.damp_percent=0.1"}, 2);
  EXPECT_EQ(other.exit_code, static_cast<int>(ExitCode::io)) << other.output;
  EXPECT_THAT(other.output, HasSubstr("quantization.bits"));
  EXPECT_THAT(other.output, HasSubstr("quantization.damp_percent"));
  EXPECT_THAT(other.output, Not(HasSubstr("quantization.group_size")));
  EXPECT_EQ(quantize().exit_code, 0) << "the refusal must not have harmed the checkpoint";
}

TEST_F(Resume, OtherWeightsAreRefused) {
  ASSERT_EQ(interrupt(3, SIGUSR1), kComeBack);
  const fs::path model = path("model");
  const TensorInfo info = SafetensorsReader(model).info("model.layers.1.mlp.down_proj.weight");
  std::fstream file(model / info.file, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(info.offset));
  file.write("\0\0", 2);
  file.close();
  const ProgramResult other = quantize();
  EXPECT_EQ(other.exit_code, static_cast<int>(ExitCode::io)) << other.output;
  EXPECT_THAT(other.output, HasSubstr("weights sha256"));
}

// `auto` then and the same thing by its name now are one job; so are two limits of fallbacks.
TEST_F(Resume, OptionsThatComeToTheSameMayChange) {
  const auto expected = hashes_of_run("undisturbed", 1, 1, {"--set", "compute.dtype=fp32"});
  ASSERT_EQ(interrupt(6, SIGUSR1, {"--set", "compute.dtype=fp32"}), kComeBack);
  const ProgramResult resumed = quantize(
      {"--set", "compute.dtype=fp32", "--set", "compute.backend=cpu", "--set", "fallback.max_layers=5"}, 2);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_EQ(tensor_hashes(path("output")), expected);
}

TEST_F(Resume, SpeedOptionsMayChange) {
  const auto expected = hashes_of_run("undisturbed", 1, 1);
  ASSERT_EQ(interrupt(6, SIGUSR1), kComeBack);
  const ProgramResult resumed =
      quantize({"--set", "log.progress=none", "--set", "checkpoint.interval=900"}, 2, 2);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_EQ(tensor_hashes(path("output")), expected);
}

TEST_F(Resume, FreshAsksForOverwrite) {
  ASSERT_EQ(interrupt(3, SIGUSR1), kComeBack);
  const ProgramResult refused = quantize({"--fresh"}, 2);
  EXPECT_EQ(refused.exit_code, static_cast<int>(ExitCode::io)) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("--overwrite"));
  EXPECT_TRUE(fs::exists(checkpoint()));
  const ProgramResult fresh = quantize({"--fresh", "--overwrite", "--set", "quantization.bits=3"}, 2);
  EXPECT_EQ(fresh.exit_code, 0) << fresh.output;
  EXPECT_THAT(fresh.output, Not(HasSubstr("resuming")));
}

TEST_F(Resume, ADamagedGenerationIsPassedOver) {
  const auto expected = hashes_of_run("undisturbed", 1, 1);
  ASSERT_EQ(interrupt(8, SIGUSR1), kComeBack);
  fs::path newest;
  for (const auto& entry : fs::directory_iterator(checkpoint())) {
    const std::string name = entry.path().filename();
    if (name.ends_with("-rank-0000.h5") && (newest.empty() || name > newest.filename()))
      newest = entry.path();
  }
  std::fstream file(newest, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(5000);
  const char flipped = static_cast<char>(file.get() ^ 1);
  file.seekp(5000);
  file.put(flipped);
  file.close();
  const ProgramResult resumed = quantize({}, 3);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr(newest.filename().string()));
  EXPECT_EQ(tensor_hashes(path("output")), expected);
}

TEST_F(Resume, WhenNoGenerationIsGoodNothingIsTouched) {
  ASSERT_EQ(interrupt(8, SIGUSR1), kComeBack);
  for (const auto& entry : fs::directory_iterator(checkpoint())) {
    if (entry.path().filename().string().ends_with("-rank-0000.h5")) fs::resize_file(entry.path(), 3000);
  }
  const auto content = [&] {
    std::map<std::string, std::uintmax_t> sizes;
    for (const auto& entry : fs::recursive_directory_iterator(path("output"))) {
      if (entry.is_regular_file()) sizes[entry.path()] = entry.file_size();
    }
    return sizes;
  };
  const auto before = content();
  const ProgramResult refused = quantize({}, 2);
  EXPECT_EQ(refused.exit_code, static_cast<int>(ExitCode::io)) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("none of the"));
  EXPECT_EQ(content(), before);
}

// An owner that was frozen for long must not go on beside the job that took its directory over.
TEST_F(Resume, AJobThatLostItsLockEnds) {
  const fs::path lock = fs::path(path("output")) / kLockFile;
  const int code = disturb(2, [&](pid_t) {
    std::ofstream(path("other-lock")) << "{}";
    fs::rename(path("other-lock"), lock);
  });
  EXPECT_EQ(code, static_cast<int>(ExitCode::io));
  EXPECT_FALSE(fs::exists(path("output") + "/config.json"));
  EXPECT_TRUE(fs::exists(lock)) << "the other job's";
}

TEST_F(Resume, CheckpointsCanBeTurnedOff) {
  const ProgramResult undisturbed = quantize({"--set", "checkpoint.enabled=false"});
  EXPECT_EQ(undisturbed.exit_code, 0) << undisturbed.output;
  EXPECT_FALSE(fs::exists(checkpoint()));
}

TEST_F(Resume, CheckpointsMayLieElsewhere) {
  const auto expected = hashes_of_run("undisturbed", 1, 1);
  const std::vector<std::string> elsewhere{"--set", "checkpoint.path=" + path("kept"), "--set",
                                           "checkpoint.interval=0"};
  const ProgramResult result = quantize(elsewhere, 2);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(tensor_hashes(path("output")), expected);
  EXPECT_FALSE(fs::exists(checkpoint()));
  const ProgramResult same = quantize({"--set", "checkpoint.path=" + path("output"), "--overwrite"});
  EXPECT_EQ(same.exit_code, static_cast<int>(ExitCode::bad_usage)) << same.output;
}

}  // namespace
}  // namespace gptq::test
