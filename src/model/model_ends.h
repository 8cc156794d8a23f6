#pragma once

#include <optional>
#include <span>

#include "model/norm.h"
#include "model/weights.h"

namespace gptq {

/// What comes before a model's first block: embedding, its factor, learned positions and a norm, as far as
/// the family has them.
class TokenEmbedding {
 public:
  /// Borrows the backend and, where it computes in host memory, nothing else: it keeps the tables.
  TokenEmbedding(Backend& backend, const ModelWeights& model);

  /// ids: of the batch's rows; hidden: (rows, hidden) f32. Throws InputError where a sample has more tokens
  /// than the model has learned positions.
  void run(const Batch& batch, std::span<const std::int32_t> ids, const Matrix& hidden) const;

 private:
  Kernels& kernels_;
  float scale_;
  std::int64_t position_offset_;
  HostTensor host_table_;
  DeviceMatrix table_, positions_;  ///< positions_: f32, no rows where there are none
  std::optional<Norm> norm_;
};

/// The norm behind a model's last block.
class FinalNorm {
 public:
  FinalNorm(Backend& backend, const ModelWeights& model);
  /// hidden: (rows, hidden) f32; y: the same shape, f32 or the compute type.
  void run(const Matrix& hidden, const Matrix& y) const { norm_.apply(kernels_, hidden, y); }

 private:
  Kernels& kernels_;
  Norm norm_;
};

}  // namespace gptq
