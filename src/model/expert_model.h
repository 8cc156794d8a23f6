#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "model/block_layout.h"

namespace gptq {

/// A mixture of experts as its config.json describes it: shapes alone, enough for a forecast. The program
/// cannot compute with these families yet.
struct ExpertModel {
  ModelConfig config;  ///< what plans use of it: sizes, heads, types
  Architecture architecture;
  std::vector<BlockLayout> layouts;  ///< of each block
  std::int64_t experts = 0;          ///< of a block that has any
  std::int64_t experts_per_token = 0;
  std::int64_t key_features = 0, value_features = 0;  ///< of a head's scores, and of what they weigh
};

/// Names of the groups that stand for all experts of a block.
constexpr const char* kExpertsIn = "experts_in";
constexpr const char* kExpertsOut = "experts_out";

/// Mixtral, Qwen2-MoE, Qwen3-MoE, DeepSeek-V2 and -V3; nothing for other families. Throws InputError for a
/// config.json that cannot be.
///
///     attention:          {q,k,v} → {o}
///     latent attention:   {q_a,kv_a} → {q_b},{kv_b} → {o}    (without q_lora_rank: {q,kv_a} → {kv_b} → {o})
///     block of experts:   attention → {shared gate,up} → {shared down} → {gate,up} x E → {down} x E
///
/// The shared expert is left out where there is none. Layers of experts bear the name of the first one.
/// Routers and their biases count among the block's norms: nothing quantizes them. Blocks for next tokens
/// (num_nextn_predict_layers) are not counted.
std::optional<ExpertModel> read_expert_model(const std::filesystem::path& model_directory);

}  // namespace gptq
