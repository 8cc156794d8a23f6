#include "model/block_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace gptq {
namespace {

class LayoutMaker {
 public:
  LayoutMaker(const Architecture& names, const ModelConfig& config)
      : names_(names),
        config_(config),
        hidden_(config.hidden_size),
        inner_(config.intermediate_size),
        queries_(config.num_attention_heads * config.head_dim),
        keys_(config.num_key_value_heads * config.head_dim),
        adds_(names.norm_place == NormPlace::before && config.residual_scale == 1) {}

  BlockLayout make() const {
    BlockLayout layout;
    switch (config_.block_form) {
      case BlockForm::sequential:
        layout.steps = {step(attention_in(0)), last_step(attention_out(), queries_), step(mlp_in(0)),
                        last_step(mlp_out(0), inner_)};
        break;
      case BlockForm::parallel:
        layout.steps = {step(block_in()), last_step(attention_out(), queries_ + inner_),
                        last_step(mlp_out(queries_), queries_ + inner_)};
        break;
      case BlockForm::parallel_two_norms:
        layout.steps = {{2 * hidden_, {attention_in(0), mlp_in(hidden_)}, false},
                        last_step(attention_out(), queries_ + inner_),
                        last_step(mlp_out(queries_), queries_ + inner_)};
        break;
    }
    layout.norms = norms();
    return layout;
  }

 private:
  LinearShape layer(std::string_view name, std::int64_t out, std::int64_t in, bool bias) const {
    return {std::string(name), out, in, bias, names_.transposed};
  }
  static BlockStep step(StageGroup group) {
    const std::int64_t width = group.in_features;
    return {width, {std::move(group)}, false};
  }
  static BlockStep last_step(StageGroup group, std::int64_t width) {
    return {width, {std::move(group)}, true};
  }

  StageGroup attention_in(std::int64_t first) const {
    const bool bias = config_.qkv_bias;
    if (config_.qkv_form != QkvForm::separate)
      return {"attention_in", first, hidden_, {layer(names_.qkv, queries_ + 2 * keys_, hidden_, bias)}};
    return {"attention_in",
            first,
            hidden_,
            {layer(names_.q, queries_, hidden_, bias), layer(names_.k, keys_, hidden_, bias),
             layer(names_.v, keys_, hidden_, bias)}};
  }
  StageGroup attention_out() const {
    return {"attention_out", 0, queries_, {layer(names_.o, hidden_, queries_, config_.o_bias)}, adds_};
  }
  StageGroup mlp_in(std::int64_t first) const {
    const bool bias = config_.mlp_bias;
    if (names_.mlp_form == MlpForm::plain)
      return {"mlp_in", first, hidden_, {layer(names_.up, inner_, hidden_, bias)}};
    if (names_.mlp_form == MlpForm::gated_fused)
      return {"mlp_in", first, hidden_, {layer(names_.up, 2 * inner_, hidden_, bias)}};
    return {"mlp_in",
            first,
            hidden_,
            {layer(names_.gate, inner_, hidden_, bias), layer(names_.up, inner_, hidden_, bias)}};
  }
  StageGroup mlp_out(std::int64_t first) const {
    return {"mlp_out", first, inner_, {layer(names_.down, hidden_, inner_, config_.mlp_bias)}, adds_};
  }
  StageGroup block_in() const {
    StageGroup both = attention_in(0);
    both.name = "block_in";
    for (LinearShape& shape : mlp_in(0).layers) both.layers.push_back(std::move(shape));
    return both;
  }

  std::vector<TensorShape> norms() const {
    std::vector<TensorShape> result;
    const auto add = [&](std::string_view module, std::int64_t features) {
      for (TensorShape& tensor : norm_tensors(names_, module, features)) result.push_back(std::move(tensor));
    };
    const bool two = config_.block_form == BlockForm::parallel_two_norms;
    if (names_.norm_place != NormPlace::behind) {
      add(two && !names_.side_attention_norm.empty() ? names_.side_attention_norm : names_.attention_norm,
          hidden_);
      if (config_.block_form != BlockForm::parallel)
        add(two && !names_.side_mlp_norm.empty() ? names_.side_mlp_norm : names_.mlp_norm, hidden_);
    }
    if (names_.norm_place != NormPlace::before) {
      add(names_.attention_out_norm, hidden_);
      add(names_.mlp_out_norm, hidden_);
    }
    add_head_norms(names_.q_norm, config_.num_attention_heads, result);
    add_head_norms(names_.k_norm, config_.num_key_value_heads, result);
    return result;
  }

  void add_head_norms(std::string_view module, std::int64_t heads, std::vector<TensorShape>& result) const {
    const std::string name = std::string(module) + ".weight";
    switch (config_.head_norm) {
      case HeadNorm::none:
        return;
      case HeadNorm::shared:
        result.push_back({name, {config_.head_dim}});
        return;
      case HeadNorm::whole:
        result.push_back({name, {heads * config_.head_dim}});
        return;
      case HeadNorm::per_head:
        for (std::int64_t head = 0; head < heads; ++head)
          result.push_back({fmt::format(fmt::runtime(name), head), {config_.head_dim}});
    }
  }

  const Architecture& names_;
  const ModelConfig& config_;
  std::int64_t hidden_, inner_, queries_, keys_;
  bool adds_;
};

}  // namespace

std::int64_t BlockLayout::groups() const {
  return first_group(static_cast<std::int64_t>(steps.size()));
}

std::int64_t BlockLayout::first_group(std::int64_t step) const {
  std::int64_t groups = 0;
  for (std::int64_t s = 0; s < step; ++s)
    groups += static_cast<std::int64_t>(steps[static_cast<std::size_t>(s)].groups.size());
  return groups;
}

std::int64_t BlockLayout::step_of(std::int64_t group) const {
  std::int64_t step = 0;
  for (const BlockStep& each : steps) {
    group -= static_cast<std::int64_t>(each.groups.size());
    if (group < 0) return step;
    ++step;
  }
  GPTQ_EXPECT(group == 0);
  return step;
}

const StageGroup& BlockLayout::group(std::int64_t group) const {
  const std::int64_t step = step_of(group);
  return steps.at(static_cast<std::size_t>(step)).groups[static_cast<std::size_t>(group - first_group(step))];
}

std::int64_t BlockLayout::widest_step() const {
  std::int64_t widest = 0;
  for (const BlockStep& step : steps) widest = std::max(widest, step.width);
  return widest;
}

std::vector<LinearShape> BlockLayout::layers() const {
  std::vector<LinearShape> all;
  for (const BlockStep& step : steps) {
    for (const StageGroup& group : step.groups)
      all.insert(all.end(), group.layers.begin(), group.layers.end());
  }
  return all;
}

// Dense blocks are alike; a family with kinds of blocks decides by the number here.
BlockLayout make_layout(const Architecture& architecture, const ModelConfig& config, std::int64_t block) {
  GPTQ_EXPECT(block >= 0 && block < config.num_hidden_layers);
  return LayoutMaker(architecture, config).make();
}

}  // namespace gptq
