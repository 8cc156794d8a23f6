#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "pipeline/plan_shapes.h"
#include "pipeline/planned_device.h"
#include "pipeline/row_store.h"

/// Memory of a job's fullest rank, by what lives at the same time. Bytes throughout.
namespace gptq {

/// What of a job decides its memory.
struct MemoryQuestion {
  PlannedDevice device;
  Place place = Place::device;  ///< of the activations
  DType compute = DType::f32;
  int ranks = 1;
  bool calibrates = true;  ///< false: round-to-nearest
  bool true_sequential = true;
  bool reference = false;     ///< a full-precision stream goes beside
  bool keeps_inputs = false;  ///< those of a whole block lie beside each other (full-precision propagation)
  bool refines = false;
  bool checkpoints = true;
  std::int64_t hidden_size = 0;
  std::int64_t most_tokens = 0;  ///< of a rank
  std::int64_t most_held_out_tokens =
      0;                             ///< of a rank, in a full-precision stream of the held-out samples alone
  std::int64_t loss_vocabulary = 0;  ///< rows of the heads that losses are made with in the end; 0: none are
  std::int64_t largest_chunk = 0;    ///< tokens
  std::int64_t embedding_bytes = 0;
  std::int64_t blocks = 0;
  std::int64_t routed_rows = 0;    ///< of an expert; 0: there are none
  std::int64_t expert_inputs = 0;  ///< columns that go into an expert's last linear
  BlockShape block;                ///< the largest; of its experts, those in memory
};

/// All activations of the rank: the residual stream (twice without true_sequential) and a group's input; the
/// full-precision stream's as well, or the residual stream alone of the held-out samples.
std::int64_t activation_bytes(const MemoryQuestion& q);
/// A rank's sums of the group that has most.
std::int64_t widest_sum_bytes(const MemoryQuestion& q);

/// Backend::peak_memory_bytes() counts all of it but the driver's share.
struct DeviceMemory {
  std::int64_t library_bytes = 0;     ///< cuBLASLt's workspace, and what the libraries' handles take
  std::int64_t activation_bytes = 0;  ///< all of them, or two chunks on their way through
  std::int64_t weight_bytes = 0;     ///< blocks ready to multiply: present, next, the reference's; converters
  std::int64_t scratch_bytes = 0;    ///< q, k, v, gate, up of a chunk; what the Hessian's kernels keep
  std::int64_t embedding_bytes = 0;  ///< at the start only, before any block is there
  std::int64_t loss_bytes = 0;       ///< in the end only, when no block is there: a head and its logits

  // At most one of these at a time.
  std::int64_t sum_bytes = 0;      ///< the Hessian's integers
  std::int64_t factor_bytes = 0;   ///< integers, matrix in double precision, factor
  std::int64_t solve_bytes = 0;    ///< integers, factor and other matrices of the group, rows being solved
  std::int64_t replace_bytes = 0;  ///< a quantized layer beside the one whose place it takes

  std::int64_t quantizing_bytes() const;  ///< the largest of the four
  std::int64_t peak_bytes = 0;
};

/// Zeros for a device without memory of its own.
DeviceMemory device_memory(const MemoryQuestion& q);

struct HostMemory {
  std::int64_t program_bytes = 0;     ///< code, libraries, MPI; a device's pinned pieces
  std::int64_t activation_bytes = 0;  ///< none on disk or in a device's own memory
  /// Three blocks as read: present, next, being exported; one as multiplied, two with a full-precision
  /// stream.
  std::int64_t weight_bytes = 0;
  std::int64_t result_bytes = 0;  ///< codes of two blocks and of the layers being gathered
  std::int64_t scratch_bytes = 0;
  std::int64_t hessian_bytes = 0;    ///< integer sums, double matrix, factor and other matrices
  std::int64_t embedding_bytes = 0;  ///< at the start only
  std::int64_t loss_bytes = 0;       ///< in the end only: the head as read and as multiplied, the last block
  std::int64_t snapshot_bytes = 0;   ///< copy of the state while a checkpoint is written; 0: none is
  std::int64_t peak_bytes = 0;

  /// The peak of a run in which no checkpoint was written.
  std::int64_t peak_without_snapshot() const { return peak_bytes - snapshot_bytes; }
};

HostMemory host_memory(const MemoryQuestion& q);

/// Device memory that `eval` needs beside the residual stream: blocks, scratch, head and its logits.
std::int64_t evaluation_device_bytes(const MemoryQuestion& q, std::int64_t vocabulary);

}  // namespace gptq
