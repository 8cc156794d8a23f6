#pragma once

#include <vector>

#include "backend/backend.h"
#include "model/rotary.h"

namespace gptq {

/// ALiBi (arXiv 2108.12409): what is added to the scores of a key at each position, (heads, positions). Head
/// h of 2^n has the slope 2^(-8(h+1)/2^n); beyond a power of two, heads have every other slope of twice as
/// many.
std::vector<float> alibi_bias(const ModelConfig& config, std::int64_t positions);

/// What tells the tokens of a block's attention where they are, in a backend's memory: one rotary table for
/// each of the model's ropes, or ALiBi's bias.
class DevicePositions {
 public:
  DevicePositions() = default;
  /// For samples of up to `positions` tokens. Throws InputError where the model cannot have so many.
  DevicePositions(Backend& backend, const ModelConfig& config, std::int64_t positions);

  RotaryTable rotary(int rope) const { return tables_.at(static_cast<std::size_t>(rope)).table(); }
  /// (heads, positions()); null: none.
  const float* key_bias() const { return bias_.size() > 0 ? bias_.as<const float>() : nullptr; }
  std::int64_t positions() const { return positions_; }

 private:
  std::int64_t positions_ = 0;
  std::vector<DeviceRotary> tables_;
  DeviceBuffer bias_;
};

}  // namespace gptq
