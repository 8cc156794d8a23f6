#include "model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "base/error.h"

namespace gptq {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

/// theta^(-2i/dim), in f32 as the models were trained with.
std::vector<float> plain_frequencies(float theta, std::int64_t dim) {
  std::vector<float> result(static_cast<std::size_t>(dim / 2));
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = 1.0f / std::pow(theta, static_cast<float>(2 * i) / static_cast<float>(dim));
  }
  return result;
}

/// Llama 3.1: long waves are slowed down by `factor`, short ones stay, those between are blended.
void slow_long_waves(const ModelConfig::Rope& rope, std::vector<float>& frequencies) {
  const double trained = static_cast<double>(rope.original_max_position_embeddings);
  const double low = rope.low_freq_factor;
  const double high = rope.high_freq_factor;
  for (float& frequency : frequencies) {
    const double turns = trained * static_cast<double>(frequency) / kTurn;  // within the trained length
    const double keep = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    const double plain = frequency;
    frequency = static_cast<float>((1 - keep) * plain / static_cast<double>(rope.factor) + keep * plain);
  }
}

/// YaRN (arXiv 2309.00071): the dimension that makes `turns` turns within the trained length.
double yarn_dimension(const ModelConfig::Rope& rope, double turns, std::int64_t dim) {
  const double trained = static_cast<double>(rope.original_max_position_embeddings);
  return static_cast<double>(dim) * std::log(trained / (turns * kTurn)) /
         (2 * std::log(static_cast<double>(rope.theta)));
}

void blend_yarn(const ModelConfig::Rope& rope, std::int64_t dim, std::vector<float>& frequencies) {
  double low = yarn_dimension(rope, rope.beta_fast, dim);
  double high = yarn_dimension(rope, rope.beta_slow, dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double slow = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double plain = frequencies[i];
    frequencies[i] = static_cast<float>(slow * plain / static_cast<double>(rope.factor) + (1 - slow) * plain);
  }
}

float yarn_magnitude(const ModelConfig::Rope& rope) {
  if (rope.attention_factor > 0) return rope.attention_factor;
  return rope.factor <= 1 ? 1.0f : 0.1f * std::log(rope.factor) + 1.0f;
}

/// A longer sample would get other angles for all its tokens, also the first ones.
void require_trained_length(const ModelConfig& config, const ModelConfig::Rope& rope,
                            std::int64_t positions) {
  const auto refuse = [&](const char* key, std::int64_t most) {
    throw InputError(
        "a sample of {} tokens is longer than {} {}: with {} rope scaling the angles would depend on the "
        "length; use shorter samples",
        positions, key, most, rope.type);
  };
  if (rope.type == "dynamic" && positions > config.max_position_embeddings)
    refuse("max_position_embeddings", config.max_position_embeddings);
  if (rope.type == "longrope" && positions > rope.original_max_position_embeddings)
    refuse("original_max_position_embeddings", rope.original_max_position_embeddings);
}

float longrope_magnitude(const ModelConfig::Rope& rope) {
  if (rope.attention_factor > 0) return rope.attention_factor;
  if (rope.factor <= 1) return 1;
  const auto trained = static_cast<float>(rope.original_max_position_embeddings);
  return std::sqrt(1 + std::log(rope.factor) / std::log(trained));
}

}  // namespace

RotaryAngles make_rotary_angles(const ModelConfig& config, std::int64_t positions, std::size_t index) {
  const ModelConfig::Rope& rope = config.ropes.at(index);
  const auto turned =
      static_cast<std::int64_t>(static_cast<float>(config.head_dim) * rope.partial_rotary_factor);
  if (turned < 2 || turned % 2 != 0 || turned > config.head_dim) {
    throw InputError("config.json: partial_rotary_factor {} of head_dim {} is not an even number of features",
                     rope.partial_rotary_factor, config.head_dim);
  }
  require_trained_length(config, rope, positions);
  std::vector<float> frequencies = plain_frequencies(rope.theta, turned);
  float magnitude = 1;
  if (rope.type == "linear") {
    for (float& frequency : frequencies) frequency /= rope.factor;
  } else if (rope.type == "llama3") {
    slow_long_waves(rope, frequencies);
  } else if (rope.type == "yarn") {
    blend_yarn(rope, turned, frequencies);
    magnitude = yarn_magnitude(rope);
  } else if (rope.type == "longrope") {
    if (rope.short_factor.size() != frequencies.size()) {
      throw InputError("rope scaling: short_factor has {} numbers, but {} frequencies are to be scaled",
                       rope.short_factor.size(), frequencies.size());
    }
    for (std::size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= rope.short_factor[i];
    magnitude = longrope_magnitude(rope);
  }

  RotaryAngles table{positions, turned, {}, {}};
  table.cos.reserve(static_cast<std::size_t>(positions) * frequencies.size());
  table.sin.reserve(table.cos.capacity());
  for (std::int64_t p = 0; p < positions; ++p) {
    for (const float frequency : frequencies) {
      const double angle = static_cast<float>(p) * frequency;  // rounded to f32 like in training
      table.cos.push_back(static_cast<float>(std::cos(angle)) * magnitude);
      table.sin.push_back(static_cast<float>(std::sin(angle)) * magnitude);
    }
  }
  return table;
}

DeviceRotary::DeviceRotary(Backend& backend, const RotaryAngles& angles)
    : positions_(angles.positions),
      rotary_dim_(angles.rotary_dim),
      cos_(to_device(backend, angles.cos.data(), angles.cos.size() * sizeof(float))),
      sin_(to_device(backend, angles.sin.data(), angles.sin.size() * sizeof(float))) {}

RotaryTable DeviceRotary::table() const {
  return {positions_, rotary_dim_, cos_.as<const float>(), sin_.as<const float>()};
}

}  // namespace gptq
