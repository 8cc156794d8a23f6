#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace gptq::synthetic {

/// A model's size and the few traits that config.json tells of it.
struct Shape {
  std::string_view name;
  std::string model_type = "llama";
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab = 0;
  std::int64_t positions = 8192;
  std::int64_t sliding_window = 0;  ///< 0: none
  double rope_theta = 10000;
  double norm_eps = 1e-5;
  bool tie = false;
};

/// Throws UsageError listing the known ones.
const Shape& find_shape(std::string_view name);
std::vector<std::string> known_shapes();

/// Throws UsageError for sizes that no model can have.
void require_sane(const Shape& shape);

/// config.json of such a model.
nlohmann::ordered_json config_json(const Shape& shape, DType dtype);

}  // namespace gptq::synthetic
