#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "io/calibration.h"
#include "kernels/kernels.h"
#include "pipeline/sample_shard.h"

namespace gptq {

/// The state of this rank's samples between two stage groups: the residual stream `hidden` (f32) and the next
/// group's input `x` (compute type). One region a chunk; x is as wide as the group at hand and reuses the
/// same memory for every group. Allocated once for the whole job.
class Activations {
 public:
  /// max_width: the widest group input; 0 where only the residual stream is needed (evaluation).
  Activations(const CalibrationData& data, std::vector<Chunk> chunks, std::int64_t hidden_size,
              std::int64_t max_width, DType compute);

  std::size_t chunks() const { return batches_.size(); }
  const Chunk& chunk(std::size_t i) const { return chunks_[i]; }
  const Batch& batch(std::size_t i) const { return batches_[i]; }
  Matrix hidden(std::size_t i) const;                 ///< (tokens of the chunk, hidden_size) f32
  Matrix x(std::size_t i, std::int64_t width) const;  ///< (tokens of the chunk, width), width <= max_width
  std::int64_t tokens() const { return first_row_.back(); }
  Matrix all_hidden() const;  ///< (tokens(), hidden_size) f32: the chunks' regions lie one behind the other
  /// Copies the chunks' inputs, one behind the other, to `target` (tokens(), width).
  void copy_x(const Matrix& target) const;
  DType compute() const { return compute_; }
  /// Token ids of the chunk's samples, one after the other.
  std::vector<std::int32_t> ids(std::size_t i, const CalibrationData& data) const;

  HostBuffer copy_hidden() const;
  void restore_hidden(const HostBuffer& copy);

 private:
  std::vector<Chunk> chunks_;
  std::vector<Batch> batches_;
  std::vector<std::int64_t> first_row_{0};
  std::int64_t hidden_size_;
  std::int64_t max_width_;
  DType compute_;
  HostBuffer hidden_;
  HostBuffer x_;
};

}  // namespace gptq
