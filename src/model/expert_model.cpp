#include "model/expert_model.h"

#include <algorithm>
#include <array>
#include <fstream>

#include "base/error.h"
#include "model/json_fields.h"

namespace gptq {
namespace {

/// How a family spells its experts.
struct ExpertFamily {
  std::string_view model_type;
  std::string_view experts_key;
  std::string_view inner_key;  ///< columns inside an expert
  std::string_view gate, up, down, router;
  bool latent = false;
  bool qkv_bias = false;  ///< where attention_bias or qkv_bias is not said
  bool head_norms = false;
};

constexpr std::array kFamilies = {
    ExpertFamily{"mixtral", "num_local_experts", "intermediate_size", "block_sparse_moe.experts.0.w1",
                 "block_sparse_moe.experts.0.w3", "block_sparse_moe.experts.0.w2", "block_sparse_moe.gate"},
    ExpertFamily{"qwen2_moe", "num_experts", "moe_intermediate_size", "mlp.experts.0.gate_proj",
                 "mlp.experts.0.up_proj", "mlp.experts.0.down_proj", "mlp.gate", false, true},
    ExpertFamily{"qwen3_moe", "num_experts", "moe_intermediate_size", "mlp.experts.0.gate_proj",
                 "mlp.experts.0.up_proj", "mlp.experts.0.down_proj", "mlp.gate", false, false, true},
    ExpertFamily{"deepseek_v2", "n_routed_experts", "moe_intermediate_size", "mlp.experts.0.gate_proj",
                 "mlp.experts.0.up_proj", "mlp.experts.0.down_proj", "mlp.gate", true},
    ExpertFamily{"deepseek_v3", "n_routed_experts", "moe_intermediate_size", "mlp.experts.0.gate_proj",
                 "mlp.experts.0.up_proj", "mlp.experts.0.down_proj", "mlp.gate", true},
};

const ExpertFamily* family_of(const std::string& model_type) {
  const auto* const found = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const ExpertFamily& family) {
    return family.model_type == model_type;
  });
  return found == kFamilies.end() ? nullptr : found;
}

DType read_dtype(const JsonFields& fields) {
  const std::string key = fields.has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = fields.text(key, "bfloat16");
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  fields.reject(key, "must be bfloat16, float16 or float32");
}

bool contains(const nlohmann::ordered_json& list, std::int64_t number) {
  return list.is_array() && std::any_of(list.begin(), list.end(), [&](const auto& each) {
           return each.is_number_integer() && each.template get<std::int64_t>() == number;
         });
}

/// What follows from the file, and what is made of it.
class Reader {
 public:
  Reader(const ExpertFamily& family, const JsonFields& fields) : family_(family), fields_(fields) {
    read_sizes();
    if (family.latent) read_latent();
    read_experts();
  }

  ExpertModel read() {
    for (std::int64_t block = 0; block < config().num_hidden_layers; ++block)
      model_.layouts.push_back(layout(block));
    return std::move(model_);
  }

 private:
  ModelConfig& config() { return model_.config; }
  const ModelConfig& config() const { return model_.config; }

  void read_sizes() {
    ModelConfig& c = config();
    c.model_type = std::string(family_.model_type);
    c.hidden_size = fields_.positive("hidden_size");
    c.intermediate_size = fields_.positive("intermediate_size");
    c.num_hidden_layers = fields_.positive("num_hidden_layers");
    c.num_attention_heads = fields_.positive("num_attention_heads");
    c.num_key_value_heads = fields_.positive("num_key_value_heads", c.num_attention_heads);
    c.vocab_size = fields_.positive("vocab_size");
    c.max_position_embeddings = fields_.positive("max_position_embeddings", 2048);
    c.head_dim = fields_.positive("head_dim", c.hidden_size / c.num_attention_heads);
    c.tie_word_embeddings = fields_.boolean("tie_word_embeddings", false);
    c.dtype = read_dtype(fields_);
    c.o_bias = fields_.boolean("attention_bias", false);
    c.qkv_bias = fields_.boolean("qkv_bias", c.o_bias || family_.qkv_bias);
    c.attention.assign(static_cast<std::size_t>(c.num_hidden_layers), {});
    model_.key_features = model_.value_features = c.head_dim;
    c.fp8 = read_fp8_config(fields_);
    if (!family_.head_norms) return;
    model_.architecture.q_norm = "self_attn.q_norm";
    model_.architecture.k_norm = "self_attn.k_norm";
  }

  void read_latent() {
    q_rank_ = fields_.has("q_lora_rank") ? fields_.positive("q_lora_rank") : 0;
    kv_rank_ = fields_.positive("kv_lora_rank");
    rope_ = fields_.positive("qk_rope_head_dim");
    nope_ = fields_.positive("qk_nope_head_dim");
    model_.key_features = nope_ + rope_;
    model_.value_features = fields_.positive("v_head_dim");
    // Latent attention has a key for each head, whatever the file says.
    config().num_key_value_heads = config().num_attention_heads;
    model_.architecture.qkv = "self_attn.kv_a_proj_with_mqa";  // no q, k and v that loaders would join
  }

  void read_experts() {
    experts_ = fields_.positive(std::string(family_.experts_key));
    inner_ = fields_.positive(std::string(family_.inner_key));
    model_.experts = experts_;
    model_.experts_per_token = fields_.positive("num_experts_per_tok");
    if (model_.experts_per_token > experts_)
      fields_.reject("num_experts_per_tok", fmt::format("must not exceed {}", family_.experts_key));
    if (family_.latent) {
      shared_ = fields_.integer("n_shared_experts", 0) * inner_;
    } else if (family_.model_type == "qwen2_moe") {
      shared_ = fields_.positive("shared_expert_intermediate_size");
    }
  }

  bool has_experts(std::int64_t block) const {
    if (family_.model_type == "mixtral") return true;
    if (family_.latent) {
      return block >= fields_.integer("first_k_dense_replace", 0) &&
             block % fields_.positive("moe_layer_freq", 1) == 0;
    }
    const bool dense = fields_.has("mlp_only_layers") && contains(fields_.raw("mlp_only_layers"), block);
    return !dense && (block + 1) % fields_.positive("decoder_sparse_step", 1) == 0;
  }

  static BlockStep step(StageGroup group, bool writes) {
    const std::int64_t width = group.in_features;
    return {width, {std::move(group)}, writes};
  }
  static LinearShape linear(std::string_view name, std::int64_t out, std::int64_t in, bool bias = false) {
    return {std::string(name), out, in, bias, false};
  }

  BlockLayout layout(std::int64_t block) const {
    const std::int64_t hidden = config().hidden_size;
    BlockLayout result;
    result.norms = {{"input_layernorm.weight", {hidden}}, {"post_attention_layernorm.weight", {hidden}}};
    family_.latent ? add_latent(result) : add_attention(result);
    if (!has_experts(block)) {
      add_mlp("mlp_in", "mlp_out", "mlp.", config().intermediate_size, result);
      return result;
    }
    if (shared_ > 0)
      add_mlp("shared_in", "shared_out", family_.latent ? "mlp.shared_experts." : "mlp.shared_expert.",
              shared_, result);
    add_experts(result);
    return result;
  }

  void add_attention(BlockLayout& result) const {
    const ModelConfig& c = config();
    const std::int64_t queries = c.num_attention_heads * c.head_dim,
                       keys = c.num_key_value_heads * c.head_dim;
    result.steps.push_back(step({"attention_in",
                                 0,
                                 c.hidden_size,
                                 {linear("self_attn.q_proj", queries, c.hidden_size, c.qkv_bias),
                                  linear("self_attn.k_proj", keys, c.hidden_size, c.qkv_bias),
                                  linear("self_attn.v_proj", keys, c.hidden_size, c.qkv_bias)}},
                                false));
    result.steps.push_back(step(
        {"attention_out", 0, queries, {linear("self_attn.o_proj", c.hidden_size, queries, c.o_bias)}, true},
        true));
    if (!family_.head_norms) return;
    for (const char* const name : {"self_attn.q_norm.weight", "self_attn.k_norm.weight"})
      result.norms.push_back({name, {c.head_dim}});
  }

  void add_latent(BlockLayout& result) const {
    const std::int64_t hidden = config().hidden_size, heads = config().num_attention_heads;
    const std::int64_t queries = heads * model_.key_features, values = heads * model_.value_features;
    const bool bias = config().o_bias;
    StageGroup entry{"attention_in", 0, hidden, {}, false};
    entry.layers.push_back(q_rank_ > 0 ? linear("self_attn.q_a_proj", q_rank_, hidden, bias)
                                       : linear("self_attn.q_proj", queries, hidden));
    entry.layers.push_back(linear("self_attn.kv_a_proj_with_mqa", kv_rank_ + rope_, hidden, bias));
    result.steps.push_back(step(std::move(entry), false));
    // Queries without a latent wait beside the others' one.
    const std::int64_t before = q_rank_ > 0 ? q_rank_ : queries;
    BlockStep latent{before + kv_rank_ + rope_, {}, false};
    if (q_rank_ > 0)
      latent.groups.push_back(
          {"q_latent", 0, q_rank_, {linear("self_attn.q_b_proj", queries, q_rank_)}, false});
    latent.groups.push_back(
        {"kv_latent",
         before,
         kv_rank_,
         {linear("self_attn.kv_b_proj", heads * (nope_ + model_.value_features), kv_rank_)},
         false});
    result.steps.push_back(std::move(latent));
    result.steps.push_back(
        step({"attention_out", 0, values, {linear("self_attn.o_proj", hidden, values, bias)}, true}, true));
    if (q_rank_ > 0) result.norms.push_back({"self_attn.q_a_layernorm.weight", {q_rank_}});
    result.norms.push_back({"self_attn.kv_a_layernorm.weight", {kv_rank_}});
  }

  void add_mlp(const char* in, const char* out, const std::string& prefix, std::int64_t inner,
               BlockLayout& result) const {
    const std::int64_t hidden = config().hidden_size;
    result.steps.push_back(
        step({in,
              0,
              hidden,
              {linear(prefix + "gate_proj", inner, hidden), linear(prefix + "up_proj", inner, hidden)}},
             false));
    // What a shared expert gives may pass a gate of its own first (Qwen2-MoE).
    const bool adds = std::string_view(out) == "mlp_out" || family_.latent;
    result.steps.push_back(step({out, 0, inner, {linear(prefix + "down_proj", hidden, inner)}, adds}, true));
  }

  void add_experts(BlockLayout& result) const {
    const std::int64_t hidden = config().hidden_size;
    StageGroup in{
        kExpertsIn, 0, hidden, {linear(family_.gate, inner_, hidden), linear(family_.up, inner_, hidden)}};
    StageGroup out{kExpertsOut, 0, inner_, {linear(family_.down, hidden, inner_)}};
    result.steps.push_back(step(std::move(in), false));
    result.steps.push_back(step(std::move(out), true));
    result.norms.push_back({std::string(family_.router) + ".weight", {experts_, hidden}});
    if (family_.model_type == "deepseek_v3")
      result.norms.push_back({"mlp.gate.e_score_correction_bias", {experts_}});
    if (family_.model_type == "qwen2_moe")
      result.norms.push_back({"mlp.shared_expert_gate.weight", {1, hidden}});
  }

  const ExpertFamily& family_;
  const JsonFields& fields_;
  ExpertModel model_;
  std::int64_t experts_ = 0, inner_ = 0, shared_ = 0;
  std::int64_t q_rank_ = 0, kv_rank_ = 0, rope_ = 0, nope_ = 0;
};

}  // namespace

std::optional<ExpertModel> read_expert_model(const std::filesystem::path& model_directory) {
  const std::filesystem::path path = model_directory / "config.json";
  std::ifstream stream(path, std::ios::binary);
  const nlohmann::ordered_json json = nlohmann::ordered_json::parse(stream, nullptr, false);
  if (json.is_discarded() || !json.is_object()) return std::nullopt;  // read_model_config() says why
  const JsonFields fields(json, path.string());
  const ExpertFamily* const family = family_of(fields.text("model_type", ""));
  if (family == nullptr) return std::nullopt;
  return Reader(*family, fields).read();
}

}  // namespace gptq
