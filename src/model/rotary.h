#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "model/model_config.h"

namespace gptq {

/// Angles of the rotary embedding in host memory; see RotaryTable.
struct RotaryAngles {
  std::int64_t positions = 0;
  std::int64_t rotary_dim = 0;
  std::vector<float> cos;
  std::vector<float> sin;
};

/// cos and sin for positions 0..positions-1 of one of this model's ropes. Throws InputError where so many
/// positions would change the angles (dynamic, longrope).
RotaryAngles make_rotary_angles(const ModelConfig& config, std::int64_t positions, std::size_t rope = 0);

/// The same in a backend's memory.
class DeviceRotary {
 public:
  DeviceRotary() = default;
  DeviceRotary(Backend& backend, const RotaryAngles& angles);
  RotaryTable table() const;

 private:
  std::int64_t positions_ = 0;
  std::int64_t rotary_dim_ = 0;
  DeviceBuffer cos_, sin_;
};

}  // namespace gptq
