#include "model/positions.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace gptq {
namespace {

/// slopes[i] = base^first_power, base^(first_power + step), … for a model of `heads` heads, a power of two.
void add_slopes(std::int64_t heads, std::int64_t count, int step, std::vector<float>& slopes) {
  const double base = std::exp2(-std::exp2(3 - std::log2(static_cast<double>(heads))));
  for (std::int64_t i = 0; i < count; ++i) {
    const double power = static_cast<double>(1 + step * i);
    slopes.push_back(static_cast<float>(std::pow(static_cast<double>(static_cast<float>(base)), power)));
  }
}

std::vector<float> alibi_slopes(std::int64_t heads) {
  const auto even = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(heads)));
  std::vector<float> slopes;
  add_slopes(even, even, 1, slopes);
  add_slopes(2 * even, heads - even, 2, slopes);
  return slopes;
}

}  // namespace

// Falcon computes slope and bias in bf16, and adds it before the scores are scaled; models were trained so.
std::vector<float> alibi_bias(const ModelConfig& config, std::int64_t positions) {
  const auto rounded = [&](float x) { return config.alibi_before_scale ? to_float(to_bf16(x)) : x; };
  const float factor = config.alibi_before_scale ? config.attention.front().scale : 1.0f;
  std::vector<float> bias;
  for (const float slope : alibi_slopes(config.num_attention_heads)) {
    for (std::int64_t p = 0; p < positions; ++p)
      bias.push_back(rounded(rounded(slope) * static_cast<float>(p)) * factor);
  }
  return bias;
}

DevicePositions::DevicePositions(Backend& backend, const ModelConfig& config, std::int64_t positions)
    : positions_(positions) {
  for (std::size_t rope = 0; rope < config.ropes.size(); ++rope)
    tables_.emplace_back(backend, make_rotary_angles(config, positions, rope));
  if (config.positions != Positions::alibi) return;
  const std::vector<float> bias = alibi_bias(config, positions);
  bias_ = to_device(backend, bias.data(), bias.size() * sizeof(float));
}

}  // namespace gptq
