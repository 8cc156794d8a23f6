#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "model/weights.h"

/// What the parts of a DecoderBlock share. Private to them.
namespace gptq {

/// Purposes of the backend's scratch memory, shared by all blocks.
enum class BlockSlot : int { query, key, value, gate, up, input, next_input, fused, written };

/// A block's linears and where they compute. A copy shares weights until they are replaced in one of the two.
class BlockLayers {
 public:
  BlockLayers(Backend& backend, const BlockLayout& layout, const BlockWeights& weights, DType compute);

  Kernels& kernels() const { return backend_->kernels(); }
  Matrix scratch(BlockSlot slot, std::int64_t rows, std::int64_t cols) const {
    return scratch(slot, rows, cols, compute_);
  }
  Matrix scratch(BlockSlot slot, std::int64_t rows, std::int64_t cols, DType dtype) const;

  void apply(std::string_view name, const Batch& batch, const Matrix& x, const Matrix& y,
             bool accumulate = false) const;
  const LinearWeights& linear(std::string_view name) const;
  void set_linear(std::string_view name, const QuantizedWeights& weight);

 private:
  struct Linear {
    std::vector<float> bias;
    std::shared_ptr<const LinearWeights> weights;
  };
  Backend* backend_;
  DType compute_;
  std::map<std::string, Linear, std::less<>> linears_;
};

}  // namespace gptq
