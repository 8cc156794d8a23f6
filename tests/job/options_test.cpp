// Every option of the recipe through the whole program: quantize, verify, evaluate.

#include <cmath>
#include <nlohmann/json.hpp>

#include "job_fixture.h"

namespace gptq::test {
namespace {

struct OptionCase {
  const char* name;
  const char* lines;  ///< of the `quantization` section, after bits: 4 and group_size: 32
  std::vector<std::string> set;
};

void PrintTo(const OptionCase& option, std::ostream* out) {
  *out << option.name;
}

class Options : public JobTest, public testing::WithParamInterface<OptionCase> {
 protected:
  double perplexity(const std::string& model) {
    const std::string json = path("eval.json");
    const ProgramResult result = run_program({"eval", job(), "--model", model, "--json", json});
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return nlohmann::json::parse(std::ifstream(json)).at("perplexity").get<double>();
  }
};

TEST_P(Options, GiveAValidModelCloseToItsSource) {
  write_job(GetParam().lines);
  const ProgramResult quantized = quantize(GetParam().set);
  ASSERT_EQ(quantized.exit_code, 0) << quantized.output;
  const ProgramResult verified = run_program({"verify", path("output")});
  EXPECT_EQ(verified.exit_code, 0) << verified.output;
  // The random model is very sure of its (wrong) predictions: its mean loss of some 20 nats is a sharp
  // fingerprint.
  const double source = std::log(perplexity(path("model")));
  const double result = std::log(perplexity(path("output")));
  EXPECT_NEAR(result, source, 0.1 * source) << "quantization destroyed the model";
  const nlohmann::json report = nlohmann::json::parse(std::ifstream(path("output") + "/report.json"));
  for (const auto& layer : report.at("layers")) {
    // Random weights have no structure that could help: 2 bits keep about half of their norm.
    const int bits = layer.at("bits");
    const double allowed = bits == 2 ? 0.7 : bits == 3 ? 0.3 : 0.15;
    EXPECT_GE(layer.at("relative_output_error").get<double>(), 0.0);
    EXPECT_LT(layer.at("relative_output_error").get<double>(), allowed) << layer.at("module");
    EXPECT_GT(layer.at("relative_weight_error").get<double>(), 0.0) << layer.at("module");
    EXPECT_LT(layer.at("relative_weight_error").get<double>(), allowed) << layer.at("module");
  }
}

const OptionCase kCases[] = {
    {"default", "", {}},
    {"rtn", "  method: rtn\n", {}},
    {"bits2", "", {"--set", "quantization.bits=2"}},
    {"bits3", "", {"--set", "quantization.bits=3"}},
    {"bits5", "", {"--set", "quantization.bits=5"}},
    {"bits6", "  sym: false\n", {"--set", "quantization.bits=6"}},
    {"bits7", "", {"--set", "quantization.bits=7"}},
    {"bits8", "", {"--set", "quantization.bits=8"}},
    {"per_channel", "", {"--set", "quantization.group_size=-1"}},
    {"ragged_group", "", {"--set", "quantization.group_size=40"}},
    {"group_of_one", "", {"--set", "quantization.group_size=1", "--set", "quantization.bits=8"}},
    {"asymmetric", "  sym: false\n", {}},
    {"asymmetric_v2", "  sym: false\n", {"--set", "output.checkpoint_format=gptq_v2"}},
    {"desc_act", "  desc_act: true\n", {}},
    {"desc_act_static", "  desc_act: true\n  static_groups: true\n", {}},
    {"static_groups", "  static_groups: true\n", {}},
    {"minmax", "  scale_search: minmax\n", {}},
    {"mse", "  scale_search: mse\n  mse_norm: 2.4\n", {}},
    {"not_sequential", "  true_sequential: false\n", {}},
    {"no_gar", "  act_group_aware: false\n", {}},
    {"exclude", "  exclude: ['mlp\\.down_proj', 'model.layers.0.self_attn.o_proj']\n", {}},
    {"include", "  include: ['mlp\\..*']\n", {}},
    {"first_block", "  num_layers: 1\n", {}},
    {"named_in_the_block",
     "  modules_in_block_to_quantize: [[mlp.gate_proj, mlp.up_proj], [mlp.down_proj]]\n",
     {}},
    {"kept_by_rule", "  dynamic: {'-:.*\\.0\\.mlp': {}}\n", {}},
    {"longest_first", "", {"--set", "calibration.order=longest_first", "--set", "calibration.min_length=2"}},
    {"bf16", "", {"--set", "compute.dtype=bf16"}},
    {"rotation", "  rotation: hadamard\n", {}},
    {"quality_default", "  quality: default\n", {}},
    {"quality_best", "  quality: best\n", {"--set", "calibration.held_out=0.2"}},
    {"correction_of_some", "  correction_alpha: 0.5\n  correction_layers: [o_proj, gate_proj]\n", {}},
    {"refined", "  refine_sweeps: 2\n  sym: false\n", {}},
    {"token_weight", "  token_weight: residual\n", {}},
    {"best_of", "  best_of: ['scale_search=mse', 'damp_percent=0.01']\n", {}},
    {"module_bits", "  module_bits: {down_proj: 8, q_proj: 6, k_proj: 6, v_proj: 6}\n", {}},
    {"groups_of_two_sizes", "  dynamic: {'+:.*gate_proj|.*up_proj': {group_size: 16}}\n", {}},
    {"rotation_rtn", "  rotation: hadamard\n  method: rtn\n", {}},
    {"rotation_exclude", "  rotation: hadamard\n  exclude: ['o_proj', 'v_proj', 'q_proj', 'k_proj']\n", {}},
    {"dequantized", "", {"--set", "output.format=dequantized"}},
    {"dequantized_exclude",
     "  exclude: ['mlp\\.down_proj']\n",
     {"--set", "output.format=dequantized", "--set", "output.max_shard_bytes=60000"}},
    {"dequantized_rotation", "  rotation: hadamard\n", {"--set", "output.format=dequantized"}},
};

INSTANTIATE_TEST_SUITE_P(Recipes, Options, testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace gptq::test
