#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "io/calibration.h"
#include "pipeline/row_store.h"
#include "pipeline/sample_shard.h"

namespace gptq {

/// The state of this rank's samples between two stage groups: the residual stream `hidden` (f32) and the next
/// group's input `x` (compute type). One region a chunk; x is as wide as the group at hand and reuses the
/// same memory for every group. Allocated once for the whole job, in the place that the plan chose; where
/// that is not the device, chunks pass through it two at a time, beside the kernels.
class Activations {
 public:
  struct Room {
    Place place = Place::device;
    std::filesystem::path spill;  ///< directory, for Place::disk
  };

  /// max_width: the widest group input; 0 where only the residual stream is needed (evaluation).
  Activations(Backend& backend, const CalibrationData& data, std::vector<Chunk> chunks,
              std::int64_t hidden_size, std::int64_t max_width, DType compute, const Room& room);

  std::size_t chunks() const { return batches_.size(); }
  const Chunk& chunk(std::size_t i) const { return chunks_[i]; }
  const Batch& batch(std::size_t i) const { return batches_[i]; }
  std::int64_t tokens() const { return first_row_.back(); }
  std::int64_t hidden_size() const { return hidden_size_; }
  DType compute() const { return compute_; }
  /// Do kernels work on them where they lie, so that a second visit costs no copies?
  bool resident() const { return hidden_.resident() && x_.resident(); }
  /// Token ids of the chunk's samples, one after the other.
  std::vector<std::int32_t> ids(std::size_t i, const CalibrationData& data) const;

  /// What a step does with a chunk.
  struct Use {
    enum Hidden { ignored, read, written, updated } hidden = ignored;
    std::int64_t x_width = 0;     ///< > 0: reads x of this width
    std::int64_t next_width = 0;  ///< > 0: writes x of this width
  };
  /// hidden: (tokens of the chunk, hidden_size) f32; x, next: (tokens, width), in the same memory; all in the
  /// backend's memory, and empty where unused.
  using Step =
      std::function<void(std::size_t chunk, const Matrix& hidden, const Matrix& x, const Matrix& next)>;
  /// Takes these chunks, or all, through a step, in order.
  void visit(const std::vector<std::size_t>& chunks, const Use& use, const Step& step);
  void visit(const Use& use, const Step& step);

  /// For every visit from now on, until others or none are given: `before` is called before a chunk is
  /// touched, `after` when its step has been put into the queues (which may not have done it yet).
  using OnChunk = std::function<void(std::size_t chunk)>;
  void on_chunk(OnChunk before, OnChunk after);

  /// The residual stream of a chunk: its bytes, and where the host can touch them; null: on a device only.
  /// What is queued must be done first (Backend::synchronize).
  std::size_t hidden_bytes(std::size_t i) const;
  std::byte* host_hidden(std::size_t i);
  void read_hidden_chunk(std::size_t i, void* to_host) const;
  void write_hidden_chunk(std::size_t i, const void* from_host);

  // Host copies, rows in sample order; for checkpoints.
  void read_hidden(void* to_host) const;  ///< (tokens(), hidden_size) f32
  /// (tokens(), width) of the compute type.
  void read_x(std::int64_t width, void* to_host) const;
  /// Rows from first_row of the chunk on; host: a dense matrix.
  void write_hidden(std::size_t chunk, std::int64_t first_row, const Matrix& host);
  void write_x(std::size_t chunk, std::int64_t first_row, const Matrix& host);

  /// The residual stream of all chunks, in the same place; and back again.
  RowStore copy_hidden() const { return hidden_.copy(); }
  RowStore empty_hidden() const;
  void write_hidden_copy(RowStore& copy, std::size_t chunk, std::int64_t first_row, const Matrix& host) const;
  void restore_hidden(const RowStore& copy) { hidden_.copy_from(copy); }

 private:
  std::size_t hidden_offset(std::size_t i) const;  ///< bytes
  std::size_t x_offset(std::size_t i) const;
  Matrix matrix(std::byte* data, DType dtype, std::size_t i, std::int64_t width) const;
  void visit_resident(const std::vector<std::size_t>& chunks, const Use& use, const Step& step);
  void visit_staged(const std::vector<std::size_t>& chunks, const Use& use, const Step& step);
  void load(std::size_t slot, std::size_t i, const Use& use);
  void store(std::size_t slot, std::size_t i, const Use& use);
  void arrive(std::size_t i) const;
  void depart(std::size_t i) const;

  Backend& backend_;
  std::vector<Chunk> chunks_;
  std::vector<Batch> batches_;
  std::vector<std::int64_t> first_row_{0};
  std::int64_t hidden_size_;
  std::int64_t max_width_;
  DType compute_;
  Room room_;
  RowStore hidden_;
  RowStore x_;
  struct Slot {
    DeviceBuffer hidden, x;
  };
  Slot slots_[2];
  OnChunk before_, after_;
};

}  // namespace gptq
