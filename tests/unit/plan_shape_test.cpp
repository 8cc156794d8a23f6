#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/expert_model.h"
#include "pipeline/plan_command.h"
#include "support/places.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

std::vector<fs::path> fixture_folders() {
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(fixtures()))
    if (fs::exists(entry.path() / "config.json")) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  return folders;
}

std::string name_of_fixture(const testing::TestParamInfo<fs::path>& info) {
  return info.param.filename().string();
}

/// A machine on which everything takes some time.
Machine any_machine() {
  Machine machine;
  machine.name = "test";
  machine.source = "a test";
  machine.node = {4, 4, 1'000'000'000'000};
  for (const KernelName& kernel : kernel_names()) machine.kernels[kernel.name] = {{1, 1e9}};
  machine.link = machine.fabric = {1e-6, 1e9, 4e9, 0};
  machine.files = {1e-3, 1e9, 1e10, 1e9, 1e10, 1e9};
  return machine;
}

JobConfig job_of(const fs::path& model) {
  JobConfig job;
  job.model.path = model.string();
  job.compute.dtype = "fp32";
  job.calibration.chunk_tokens = 64;
  job.quantization.group_size = 8;
  return job;
}

class ShapeOfAFamily : public testing::TestWithParam<fs::path> {};

TEST_P(ShapeOfAFamily, ItsConfigAlonePlansLikeItsWeights) {
  const ModelWeights model(GetParam());
  const ModelShape with(model), without(GetParam(), false);
  EXPECT_TRUE(with.has_weights() && with.quantizable() && without.quantizable());
  if (model.config().fp8.present) {  // what has scales, and how many, the files alone tell
    EXPECT_NEAR(with.source_bytes(), without.source_bytes(), 0.15 * with.source_bytes());
    EXPECT_LT(without.source_bytes(), without.ordinary_bytes());
    return;
  }
  EXPECT_EQ(with.source_bytes(), without.source_bytes());
  EXPECT_EQ(with.ordinary_bytes(), without.ordinary_bytes());
  EXPECT_EQ(with.parameters(), without.parameters());
  EXPECT_EQ(with.head_bytes(), without.head_bytes());
  EXPECT_EQ(with.untied_head_bytes(), without.untied_head_bytes());
  const JobConfig job = job_of(GetParam());
  const std::vector<std::int64_t> lengths(8, 32);
  const Machine machine = any_machine();
  const PlanRequest one = on_machine({job, with, lengths}, machine, 4);
  const PlanRequest other = on_machine({job, without, lengths}, machine, 4);
  EXPECT_EQ(make_plan(one).text(1e9, 1e9), make_plan(other).text(1e9, 1e9));
  const Forecast forecast = choose(one, machine, {}), again = choose(other, machine, {});
  EXPECT_EQ(forecast_text(forecast), forecast_text(again));
  EXPECT_GT(forecast.simulated.root.at("forward"), 0);
  EXPECT_GT(forecast.simulated.root.at("hessian"), 0);
  EXPECT_GT(forecast.simulated.root.at("solve"), 0);
}

/// The simulation's linears against the plan's own sum of products.
TEST_P(ShapeOfAFamily, ItsForwardPassCostsItsFlops) {
  JobConfig job = job_of(GetParam());
  job.quantization.correction_alpha = 0;
  job.compute.threads = 1;
  Machine machine = any_machine();
  for (auto& [name, points] : machine.kernels) points = {{1, 1e30}};
  machine.kernels["linear.f32"] = machine.kernels["attention.f32"] = {{1, 1e6}};
  const PlanRequest request =
      on_machine({job, ModelShape(GetParam(), false), std::vector<std::int64_t>(8, 32)}, machine, 1);
  const Plan plan = make_plan(request);
  const Forecast forecast = choose(request, machine, {});
  EXPECT_NEAR(forecast.simulated.root.at("forward"), plan.flops.forward / 1e6,
              1e-6 * plan.flops.forward / 1e6);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ShapeOfAFamily, testing::ValuesIn(fixture_folders()), name_of_fixture);

// ---- mixtures of experts, by public figures

class ShapeOfExperts : public testing::Test {
 protected:
  ModelShape shape(const json& config) {
    std::ofstream(directory_.path() / "config.json") << config.dump();
    return {directory_.path(), false};
  }
  static json mixtral() {
    return {{"model_type", "mixtral"},      {"hidden_size", 4096},       {"intermediate_size", 14336},
            {"num_hidden_layers", 32},      {"num_attention_heads", 32}, {"num_key_value_heads", 8},
            {"vocab_size", 32000},          {"num_local_experts", 8},    {"num_experts_per_tok", 2},
            {"tie_word_embeddings", false}, {"torch_dtype", "bfloat16"}};
  }

  TempDirectory directory_;
};

/// The numbers of parameters that the hub shows for these models.
TEST_F(ShapeOfExperts, ParametersAreThoseOfTheModels) {
  const ModelShape eight = shape(mixtral());
  EXPECT_FALSE(eight.quantizable());
  EXPECT_EQ(eight.parameters(), 46'702'792'704);  // Mixtral-8x7B
  EXPECT_EQ(eight.source_bytes(), 2 * eight.parameters());
  EXPECT_EQ(shape({{"model_type", "qwen3_moe"},
                   {"hidden_size", 2048},
                   {"intermediate_size", 6144},
                   {"moe_intermediate_size", 768},
                   {"num_hidden_layers", 48},
                   {"num_attention_heads", 32},
                   {"num_key_value_heads", 4},
                   {"head_dim", 128},
                   {"vocab_size", 151936},
                   {"num_experts", 128},
                   {"num_experts_per_tok", 8}})
                .parameters(),
            30'532'122'624);  // Qwen3-30B-A3B
  EXPECT_EQ(shape({{"model_type", "qwen2_moe"},
                   {"hidden_size", 2048},
                   {"intermediate_size", 5632},
                   {"moe_intermediate_size", 1408},
                   {"shared_expert_intermediate_size", 5632},
                   {"num_hidden_layers", 24},
                   {"num_attention_heads", 16},
                   {"num_key_value_heads", 16},
                   {"vocab_size", 151936},
                   {"num_experts", 60},
                   {"num_experts_per_tok", 4}})
                .parameters(),
            14'315'784'192);  // Qwen1.5-MoE-A2.7B
  EXPECT_EQ(shape({{"model_type", "deepseek_v2"},
                   {"hidden_size", 2048},
                   {"intermediate_size", 10944},
                   {"moe_intermediate_size", 1408},
                   {"num_hidden_layers", 27},
                   {"num_attention_heads", 16},
                   {"num_key_value_heads", 16},
                   {"q_lora_rank", nullptr},
                   {"kv_lora_rank", 512},
                   {"qk_nope_head_dim", 128},
                   {"qk_rope_head_dim", 64},
                   {"v_head_dim", 128},
                   {"vocab_size", 102400},
                   {"n_routed_experts", 64},
                   {"n_shared_experts", 2},
                   {"num_experts_per_tok", 6},
                   {"first_k_dense_replace", 1}})
                .parameters(),
            15'706'484'224);  // DeepSeek-V2-Lite
}

TEST_F(ShapeOfExperts, DeepSeekV3IsReadInEightBits) {
  const ModelShape model(configs() / "models" / "deepseek-v3", false);
  EXPECT_EQ(model.parameters(), 671'026'419'200);
  EXPECT_GT(model.source_bytes(), model.parameters());
  EXPECT_LT(model.source_bytes(), 1.01 * static_cast<double>(model.parameters()));
  EXPECT_EQ(model.layout(2).groups(), 6) << "three dense blocks: latents, both out of them, o, MLP";
  EXPECT_EQ(model.layout(3).groups(), 8);
  EXPECT_EQ(model.experts_of(model.layout(60).group(7)), 256);
  EXPECT_EQ(model.experts_of(model.layout(60).group(5)), 0);
  EXPECT_EQ(model.layout(3).widest_step(), 16384);
  const JobConfig job = job_of(model.directory());
  const BlockShape block = measure_block(model, job, Recipe(job.quantization), 3, DType::bf16);
  EXPECT_EQ(block.expert_parameters, 256 * 3 * 7168LL * 2048);
  EXPECT_EQ(block.active_parameters, block.parameters - (256 - 8) * 3 * 7168LL * 2048);
  const BlockShape resident = measure_block(model, job, Recipe(job.quantization), 3, DType::bf16, 2);
  EXPECT_EQ(resident.expert_parameters, 2 * 3 * 7168LL * 2048);
  EXPECT_EQ(resident.loaded_bytes, 2 * resident.parameters);
  const Plan plan = make_plan(on_machine({job, model, std::vector<std::int64_t>(8, 64)}, any_machine(), 8));
  EXPECT_EQ(plan.experts, 256) << "though a dense block is larger than one with two experts in memory";
  EXPECT_EQ(plan.experts_per_token, 8);
  EXPECT_NEAR(static_cast<double>(ModelShape(configs() / "models" / "kimi-k2", false).parameters()), 1.026e12,
              0.001e12);
}

TEST_F(ShapeOfExperts, OwnersShareThemOrThemselvesAreShared) {
  EXPECT_EQ(share_of_experts(256, 1).own, 256);
  EXPECT_EQ(share_of_experts(256, 64).own, 4);
  EXPECT_EQ(share_of_experts(256, 100).own, 3);
  EXPECT_EQ(share_of_experts(256, 512).own, 1);
  EXPECT_EQ(share_of_experts(256, 512).ranks, 2);
  EXPECT_EQ(share_of_experts(0, 8).own, 0);
}

class ForecastOfExperts : public ShapeOfExperts {
 protected:
  /// Two blocks of 8 experts.
  PlanRequest request(int ranks, const Machine& machine) {
    json config = mixtral();
    config["num_hidden_layers"] = 2;
    config["hidden_size"] = 64;
    config["intermediate_size"] = 128;
    config["num_attention_heads"] = 4;
    config["num_key_value_heads"] = 4;
    config["torch_dtype"] = "float32";
    job_ = job_of(directory_.path());
    job_.quantization.correction_alpha = 0;
    job_.compute.threads = 1;
    job_.checkpoint.enabled = false;
    return on_machine({job_, shape(config), std::vector<std::int64_t>(64, 64)}, machine, ranks);
  }
  static Machine with(const std::string& kernel, double rate) {
    Machine machine = any_machine();
    machine.node = {64, 64, 1'000'000'000'000};
    machine.startup = 0;
    machine.link = machine.fabric = {0, 1e30, 1e30, 0};
    machine.files = {0, 1e30, 1e30, 1e30, 1e30, 1e30};
    for (auto& [name, points] : machine.kernels) points = {{1, name == kernel ? rate : 1e30}};
    return machine;
  }
  double seconds(int ranks, const Machine& machine) {
    return choose(request(ranks, machine), machine, {}).simulated.seconds - 0.25;
  }

  JobConfig job_;
};

constexpr double kRouted = 64 * 64 * 2;  // rows that go to some expert

TEST_F(ForecastOfExperts, EachTokenPassesItsOwn) {
  const Machine machine = with("linear.f32", 1e9);
  // 64 tokens a chunk give an expert 16 rows, filled up to 64: four times the routed rows.
  const double dense = 4 * 64 * 64, expert = 3 * 64 * 128;
  const double alone = 2 * 2 * (dense * 64 * 64 + expert * 4 * kRouted) / 1e9;
  EXPECT_NEAR(seconds(1, machine), alone, 1e-6 * alone);
  EXPECT_NEAR(seconds(4, machine), alone / 4, 1e-6 * alone);
  const Plan plan = make_plan(request(1, machine));
  EXPECT_NEAR(plan.flops.forward,
              2 * (2 * (dense * 64 * 64 + expert * kRouted) + 4.0 * 64 * 64 * 64 * 65 / 2),
              1e-6 * plan.flops.forward);
}

TEST_F(ForecastOfExperts, OwnersSumFactorAndSolveTheirOwnAtOnce) {
  const double n2 = 64 * 64 + 128 * 128, n3 = std::pow(64, 3) + std::pow(128, 3);
  const double rows = 2 * 128.0 * 64 * 64 + 64.0 * 128 * 128;
  const double sums = 2 * (2 * 64 * 64 * 64.0 * 64 + n2 * kRouted) / 1e9;
  EXPECT_NEAR(seconds(1, with("hessian.f32", 1e9)), sums, 1e-6 * sums);
  EXPECT_NEAR(seconds(8, with("hessian.f32", 1e9)), sums / 8, 1e-6 * sums);
  const double dense_factors = 2 * 2 * std::pow(64, 3) / 3 / 1e7, factors = 2 * 8 * n3 / 3 / 1e7;
  EXPECT_NEAR(seconds(1, with("factor", 1e7)), dense_factors + factors, 1e-6 * factors);
  EXPECT_NEAR(seconds(8, with("factor", 1e7)), dense_factors + factors / 8, 1e-6 * factors);
  EXPECT_NEAR(seconds(16, with("factor", 1e7)), dense_factors + factors / 8, 1e-6 * factors)
      << "two an expert";
  const double dense_rows = 4 * 64.0 * 64 * 64;
  EXPECT_NEAR(seconds(1, with("solve", 1e9)), 2 * 2 * (dense_rows + 8 * rows) / 1e9, 1e-6);
}

TEST_F(ForecastOfExperts, RowsTravelToTheirExpertsAndBack) {
  Machine machine = with("", 1);
  machine.link = {0, 1e6, 64e6, 0};
  const Forecast forecast = choose(request(4, machine), machine, {});
  // A quarter of the rows are each rank's, and of these a quarter stays.
  const double each_way = 2 * kRouted / 4 * 0.75 * 64 * 4 / 1e6;
  EXPECT_NEAR(forecast.simulated.root.at("exchange"), 2 * each_way, 1e-6 * each_way);
  EXPECT_EQ(forecast.simulated.links.fabric, 0);
  machine.node.ranks = 2;
  EXPECT_GT(choose(request(4, machine), machine, {}).simulated.links.fabric, 0);
}

TEST_F(ForecastOfExperts, ARankReadsItsOwnExpertsAndSaysItIsAForecast) {
  const Machine machine = with("", 1);
  const Forecast one = choose(request(1, machine), machine, {}),
                 eight = choose(request(8, machine), machine, {});
  EXPECT_NEAR(one.simulated.read_bytes, eight.simulated.read_bytes, 1) << "each expert is read once";
  EXPECT_LT(eight.plan.block_read_bytes, one.plan.block_read_bytes / 2);
  EXPECT_FALSE(one.quantizable);
  EXPECT_THAT(forecast_text(one), HasSubstr("quantize does not run this family yet"));
  EXPECT_THAT(one.plan.text(-1, 1e9), HasSubstr("8 a block, 2 a token; 1024 tokens an expert"));
  EXPECT_THROW(read_model_config(directory_.path()), InputError);
}

}  // namespace
}  // namespace gptq::test
