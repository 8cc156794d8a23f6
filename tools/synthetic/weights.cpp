#include "synthetic/weights.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/block_layout.h"

namespace gptq::synthetic {
namespace {

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

/// The finalizer of splitmix64: every bit of the input moves every bit of the result.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

std::uint64_t key_of(std::uint64_t seed, std::string_view name, std::uint64_t stream) {
  std::uint64_t hash = mix(seed + kGolden * (stream + 1));
  for (const char c : name) hash = mix(hash ^ static_cast<unsigned char>(c)) + kGolden;
  return hash;
}

/// The number `index` of a stream: four uniform 16-bit numbers added and brought to mean 0 and variance 1.
float normal(std::uint64_t key, std::int64_t index) {
  const std::uint64_t bits = mix(key + static_cast<std::uint64_t>(index) * kGolden);
  const auto sum = static_cast<std::int32_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                             ((bits >> 32) & 0xffff) + (bits >> 48));
  constexpr float kStep = 2.6429e-5f;  // 1 / (65536 · sqrt(4/12))
  return static_cast<float>(sum - 131070) * kStep;
}

bool one_in(std::uint64_t key, std::int64_t index, std::uint64_t many) {
  return mix(key ^ (static_cast<std::uint64_t>(index) * kGolden)) % many == 0;
}

float inverse_root(std::int64_t count) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(count)));
}

}  // namespace

std::vector<TensorRecipe> model_recipe(const Architecture& architecture, const ModelConfig& config) {
  const Architecture& a = architecture;
  const std::int64_t hidden = config.hidden_size;
  // A tied head gives a token's own embedding a logit of about 4 when its scale is this.
  const float embedding =
      config.tie_word_embeddings ? std::max(6.0f / static_cast<float>(hidden), 0.01f) : 1.0f;
  const float residual = embedding * inverse_root(2 * config.num_hidden_layers);
  const auto weight = [](std::string_view module) { return std::string(module) + ".weight"; };
  const auto norm = [&](const std::string& tensor, std::int64_t size) {
    // A few channels are much larger than the rest, as in every trained model.
    return TensorRecipe{.name = tensor,
                        .shape = {size},
                        .offset = 1 - a.norm_weight_offset,
                        .scale = 0.1f,
                        .column_outlier = 20};
  };
  std::vector<TensorRecipe> tensors;
  tensors.push_back({.name = weight(a.embedding), .shape = {config.vocab_size, hidden}, .scale = embedding});
  for (std::int64_t block = 0; block < config.num_hidden_layers; ++block) {
    const std::string prefix = block_prefix(a, block);
    const BlockLayout layout = make_layout(a, config, block);
    for (const TensorShape& each : layout.norms) tensors.push_back(norm(prefix + each.name, each.shape[0]));
    for (const LinearShape& layer : layout.layers()) {
      const bool writes_residual = layer.name == a.o || layer.name == a.down;
      const bool feeds_one = layer.name == a.v || layer.name == a.up;
      const float out = writes_residual ? residual : 1.0f;
      tensors.push_back({.name = weight(prefix + layer.name),
                         .shape = {layer.out_features, layer.in_features},
                         .scale = 0.9f * out * inverse_root(layer.in_features),
                         .common = 0.3f * out * inverse_root(layer.in_features),
                         .row_outlier = feeds_one ? 3.0f : 1.0f,
                         .column_outlier = 2});
      if (layer.bias) {
        tensors.push_back(
            {.name = prefix + layer.name + ".bias", .shape = {layer.out_features}, .scale = 0.1f * out});
      }
    }
  }
  tensors.push_back(norm(weight(a.final_norm), hidden));
  if (!config.tie_word_embeddings) {
    // The head knows the embedding a little: the token that was just read gets a logit of about 4 more.
    tensors.push_back({.name = weight(a.head),
                       .shape = {config.vocab_size, hidden},
                       .scale = inverse_root(hidden),
                       .echo = 6.0f / static_cast<float>(hidden),
                       .echo_of = weight(a.embedding)});
  }
  return tensors;
}

TensorSource::TensorSource(const TensorRecipe& recipe, std::uint64_t seed)
    : recipe_(recipe),
      columns_(recipe.shape.back()),
      key_(key_of(seed, recipe.name, 0)),
      row_key_(key_of(seed, recipe.name, 1)),
      echo_key_(key_of(seed, recipe.echo_of, 0)) {
  const std::uint64_t column_key = key_of(seed, recipe.name, 2);
  for (std::int64_t c = 0; c < columns_; ++c) {
    const float usual = recipe.column_outlier == 1 ? 1.0f : 1.0f + 0.1f * normal(column_key, 3 * c);
    column_scale_.push_back(one_in(column_key, c, 64) ? usual * recipe.column_outlier : usual);
    first_pattern_.push_back(recipe.common * normal(column_key, 3 * c + 1));
    second_pattern_.push_back(recipe.common * normal(column_key, 3 * c + 2));
  }
}

float TensorSource::row_factor(std::int64_t row) const {
  return one_in(row_key_, row, 32) ? recipe_.row_outlier : 1.0f;
}

template <typename T, typename Convert>
void TensorSource::fill_as(Convert convert, std::int64_t first, std::int64_t count, T* out) const {
  const float offset = recipe_.offset, scale = recipe_.scale, echo = recipe_.echo;
  for (std::int64_t index = first; index < first + count;) {
    const std::int64_t row = index / columns_;
    const std::int64_t row_end = std::min((row + 1) * columns_, first + count);
    const float factor = row_factor(row);
    const float a1 = normal(row_key_, 2 * row), a2 = normal(row_key_, 2 * row + 1);
    for (; index < row_end; ++index) {
      const auto c = static_cast<std::size_t>(index - row * columns_);
      const float pattern = a1 * first_pattern_[c] + a2 * second_pattern_[c];
      float value = offset + factor * column_scale_[c] * (scale * normal(key_, index) + pattern);
      if (echo != 0) value += echo * normal(echo_key_, index);
      *out++ = convert(value);
    }
  }
}

void TensorSource::fill(DType dtype, std::int64_t first, std::int64_t count, std::byte* out) const {
  switch (dtype) {
    case DType::bf16:
      return fill_as([](float value) { return to_bf16(value); }, first, count, reinterpret_cast<bf16*>(out));
    case DType::f16:
      return fill_as([](float value) { return to_f16(value); }, first, count, reinterpret_cast<f16*>(out));
    case DType::f32:
      return fill_as([](float value) { return value; }, first, count, reinterpret_cast<float*>(out));
    default:
      throw UsageError("weights are written as bf16, f16 or f32, not as {}", name_of(dtype));
  }
}

}  // namespace gptq::synthetic
