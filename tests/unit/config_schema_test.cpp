// The table of keys, and what is made from it: to_yaml, result_keys, configs/reference.yaml.
#include "config/job_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "config/consistency.h"
#include "config/key_value.h"
#include "config/requirements.h"
#include "support/places.h"
#include "unit/config_support.h"

namespace gptq {
namespace {

using config_test::JobFile;
using config_test::mistakes_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string kConfigs = test::configs().string();

/// A job in which no key has its default, so that a key that is lost on the way shows. (Method rtn, which
/// would forbid some of the others, is the one exception.)
JobConfig unusual_job() {
  JobConfig job;
  job.model.path = "a dir/with \"quotes\" \\ and ${braces}";
  job.calibration = {.path = "~not home",
                     .num_samples = 7,
                     .min_length = 5,
                     .pad_token = 0,
                     .order = "longest_first",
                     .held_out = 0.25,
                     .chunk_tokens = 123};
  QuantizationSection& q = job.quantization;
  q.bits = 2;
  q.trits = true;
  q.group_size = -1;
  q.per_channel = false;
  q.sym = false;
  q.damp_percent = 0.1 + 0.2;
  q.damp_auto_increment = 0.0;
  q.desc_act = true;
  q.act_group_aware = false;
  q.static_groups = true;
  q.scale_search = "mse";
  q.mse_norm = 2.4;
  q.mse_grid = 37;
  q.max_shrink = 0.75;
  q.true_sequential = false;
  q.quality = "best";
  q.token_weight = "residual";
  q.refine_sweeps = 4;
  q.refine_scales = false;
  q.correction_alpha = 0.5;
  q.correction_target = "output";
  q.correction_layers = {"down_proj$"};
  q.rotation = "hadamard";
  q.best_of = {"scale_search=mse mse_norm=2.4", "damp_percent=0.01"};
  q.include = {"model\\.layers\\.[0-3]\\.", "q_proj"};
  q.exclude = {"a: b", "#x", "'"};
  q.modules_in_block_to_quantize = {"self_attn.q_proj", "true"};
  q.num_layers = 3;
  q.lm_head = true;
  q.mlp_bits = 8;
  q.mlp_group_size = -1;
  q.module_bits = {{"down_proj", 3}, {"a \"name\": {", 7}};
  q.dynamic = {{"-:.*\\.3\\.", {}},
               {"+:.*\\[x]{1,2}", {{"bits", "8"}, {"sym", "true"}, {"scale_search", "minmax"}}},
               {"a: 'b", {{"group_size", "32"}}}};
  job.fallback = {11, 5};
  job.compute = {"cpu", "fp32", 3, "disk", "/a place"};
  job.parallel = {2, 3, "stage"};
  job.output = {.path = "null",
                .overwrite = true,
                .format = "dequantized",
                .checkpoint_format = "gptq_v2",
                .quantization_config = "mixed_gptq",
                .max_shard_bytes = 1'000'000'000'000};
  job.checkpoint = {false, "check point", 0.5, 3, "accept"};
  job.comm = {12.25};
  job.eval = {"\xc3\xa4\x01", {"a,b.h5", "[c].h5"}, 11};
  job.report = {true};
  job.log = {"debug", "lines"};
  return job;
}

TEST(ConfigSchema, YamlRoundTripKeepsEveryKey) {
  const JobConfig job = unusual_job();
  const JobConfig defaults;
  const JobConfig again = read_job(JobFile(to_yaml(job)).path(), {});
  for (const Key& key : job_keys()) {
    const bool unusual = value_text(key, job) != value_text(key, defaults);
    // Another method, or another propagation, contradicts the other keys' unusual values.
    EXPECT_TRUE(unusual || key.path == "quantization.method" || key.path == "quantization.propagation")
        << key.path << ": this test shows nothing of it";
    EXPECT_EQ(value_text(key, again), value_text(key, job)) << key.path;
  }
  EXPECT_EQ(to_yaml(again), to_yaml(read_job(JobFile(to_yaml(again)).path(), {})));
  EXPECT_EQ(again.quantization.damp_percent, 0.1 + 0.2) << "to the last bit";
}

TEST(ConfigSchema, FullPrecisionSettlesWhatItLeavesNoRoomFor) {
  const JobConfig job = read_job(
      JobFile(to_yaml(JobConfig())).path(),
      {"model.path=x", "quantization.propagation=full_precision", "quantization.correction_alpha=0"});
  EXPECT_EQ(job.quantization.propagation, "full_precision");
  EXPECT_EQ(job.quantization.correction_alpha, 0);
  const JobConfig again = read_job(JobFile(to_yaml(job)).path(), {});
  EXPECT_EQ(again.quantization, job.quantization);
  EXPECT_NE(result_keys(job), result_keys(JobConfig()));
  for (const char* contradiction :
       {"quantization.correction_alpha=1", "quantization.true_sequential=false"}) {
    EXPECT_THROW(read_job(JobFile(to_yaml(job)).path(), {contradiction}), UsageError) << contradiction;
  }
}

TEST(ConfigSchema, ResultKeysAreTheJobsIdentity) {
  const JobConfig job = unusual_job();
  const auto base = result_keys(job);
  EXPECT_EQ(base.at("quantization.bits"), "2");
  EXPECT_EQ(base.at("quantization.module_bits"), "{\"a \\\"name\\\": {\": 7, down_proj: 3}");
  EXPECT_EQ(base.at("quantization.exclude"), "[\"a: b\", \"#x\", \"'\"]");
  for (const char* path :
       {"compute.threads", "fallback.max_layers", "report.errors", "output.path", "output.overwrite",
        "checkpoint.enabled", "checkpoint.path", "checkpoint.interval", "checkpoint.keep", "comm.timeout",
        "parallel.stages", "parallel.replicas", "parallel.solvers", "log.level", "log.progress", "eval.model",
        "eval.data", "eval.num_samples"}) {
    EXPECT_EQ(base.count(path), 0u) << path << " never changes the output's bytes";
  }
  JobConfig faster = job;
  faster.compute.threads = 64;
  faster.output.path = "elsewhere";
  faster.eval.data = {};
  EXPECT_EQ(result_keys(faster), base);
  JobConfig reordered = job;
  std::swap(reordered.quantization.dynamic[0], reordered.quantization.dynamic[1]);
  EXPECT_NE(result_keys(reordered), base) << "the first rule that matches wins";
  JobConfig other = job;
  other.quantization.damp_percent = std::nextafter(other.quantization.damp_percent, 1.0);
  EXPECT_NE(result_keys(other), base);
}

TEST(ConfigSchema, EveryKeyHasASectionADefaultInRangeAndDocumentation) {
  std::set<std::string> sections;
  for (const Section& section : job_sections()) sections.insert(section.name);
  std::set<std::string> paths;
  for (const Key& key : job_keys()) {
    EXPECT_EQ(sections.count(key.section()), 1u) << key.path;
    EXPECT_TRUE(paths.insert(key.path).second) << key.path << " is in the table twice";
    EXPECT_FALSE(key.documentation.empty()) << key.path;
  }
  EXPECT_THAT(mistakes_of(JobFile(to_yaml(JobConfig{})).path(), {"model.path=x"}), IsEmpty());
}

TEST(ConfigSchema, LimitsSayWhatTheyAllow) {
  Limits half_open;
  half_open.has_range = half_open.low_open = true;
  half_open.high = 8;
  EXPECT_EQ(half_open.describe(), "in (0, 8]");
  EXPECT_FALSE(half_open.allow(0.0));
  EXPECT_TRUE(half_open.allow(8.0));
  EXPECT_FALSE(half_open.allow(std::nextafter(8.0, 9.0)));
  EXPECT_EQ(find_key("quantization.group_size")->limits.describe(), "-1 or at least 1");
  EXPECT_EQ(find_key("quantization.mlp_bits")->limits.describe(), "0 or in [2, 8]");
  EXPECT_EQ(find_key("comm.timeout")->limits.describe(), "above 0");
  EXPECT_FALSE(find_key("comm.timeout")->limits.allow(0.0));
  EXPECT_TRUE(find_key("checkpoint.interval")->limits.allow(0.0));
  EXPECT_FALSE(find_key("checkpoint.keep")->limits.allow(0.0));
  EXPECT_EQ(Limits{}.describe(), "");
  EXPECT_EQ(find_key("quantization.nothing"), nullptr);
}

TEST(ConfigFiles, ReferenceIsWhatTheProgramPrints) {
  std::ifstream file(kConfigs + "/reference.yaml");
  ASSERT_TRUE(file) << "configs/reference.yaml is missing";
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), reference_yaml()) << "run: gptq-hpc --reference > configs/reference.yaml";
}

TEST(ConfigFiles, ReferenceHasTheDefaults) {
  const JobConfig job = read_job(kConfigs + "/reference.yaml", {"model.path=x"});
  const JobConfig defaults = default_job();
  for (const Key& key : job_keys()) {
    const bool given_above = key.path == "model.path";
    EXPECT_TRUE(given_above || value_text(key, job) == value_text(key, defaults)) << key.path;
    EXPECT_THAT(reference_yaml(), HasSubstr("\n  " + key.name() + ": ")) << key.path;
  }
}

TEST(ConfigFiles, AllScenariosCanBeQuantized) {
  int scenarios = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".yaml" || entry.path().filename() == "reference.yaml") continue;
    EXPECT_NO_THROW(require_for_quantize(read_job(entry.path().string(), {}))) << entry.path();
    ++scenarios;
  }
  EXPECT_GE(scenarios, 6);
}

TEST(ConfigFiles, QuickstartCanBeEvaluatedAndHasTheDefaultRecipe) {
  const JobConfig job = read_job(kConfigs + "/quickstart.yaml", {});
  EXPECT_NO_THROW(require_for_eval(job));
  const JobConfig defaults = default_job();
  for (const Key& key : job_keys()) {
    const bool of_recipe = key.section() == "quantization";
    EXPECT_TRUE(!of_recipe || value_text(key, job) == value_text(key, defaults)) << key.path;
  }
}

/// The message of what `check` throws, or nothing.
std::string message_of(void (*check)(const JobConfig&), const JobConfig& job) {
  try {
    check(job);
    return "";
  } catch (const UsageError& error) {
    return error.what();
  }
}

TEST(ConfigRequirements, QuantizeNamesEverythingMissingAtOnce) {
  JobConfig job;
  job.model.path = "m";
  EXPECT_THAT(
      message_of(require_for_quantize, job),
      testing::AllOf(HasSubstr("\ncalibration.path: is required"), HasSubstr("\noutput.path: is required")));
  job.output.path = "out";
  EXPECT_THAT(message_of(require_for_quantize, job), HasSubstr("calibration.path"));
  job.quantization.method = "rtn";
  EXPECT_EQ(message_of(require_for_quantize, job), "");
}

TEST(ConfigRequirements, OutputIsNeverTheSourceModel) {
  JobConfig job;
  job.quantization.method = "rtn";
  job.model.path = testing::TempDir() + "/source";
  job.output.path = testing::TempDir() + "/other/../source/";
  EXPECT_THAT(message_of(require_for_quantize, job), HasSubstr("is or contains the source model"));
  job.output.path = testing::TempDir();
  EXPECT_THAT(message_of(require_for_quantize, job), HasSubstr("is or contains the source model"));
  job.output.path = testing::TempDir() + "/source2";
  EXPECT_EQ(message_of(require_for_quantize, job), "");
}

TEST(ConfigRequirements, EvalNeedsDataAndAModel) {
  JobConfig job;
  EXPECT_THAT(message_of(require_for_eval, job),
              testing::AllOf(HasSubstr("\neval.data: is required"), HasSubstr("\neval.model: is required")));
  job.eval.data = {"a.h5"};
  job.output.path = "out";
  EXPECT_EQ(message_of(require_for_eval, job), "");
}

}  // namespace
}  // namespace gptq
