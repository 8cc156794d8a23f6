#include "pipeline/plan_memory.h"

#include <algorithm>

#include "kernels/cuda/hessian_memory.h"
#include "kernels/cuda/solve_memory.h"

namespace gptq {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

/// Resident before any work: the program, its libraries and Open MPI's buffers (measured: 60 to 90 MB).
constexpr std::int64_t kProgramBytes = 90'000'000;
/// On the host with a GPU: driver and CUDA libraries, and three rings of pinned pieces (pinned_ring.h). The
/// first part is an estimate until it is measured on a GPU.
constexpr std::int64_t kDeviceProgramBytes = 300'000'000 + 3 * 32 * kMiB;

/// CudaContext::kBlasWorkspace, and what the handles of cuBLASLt and cuSOLVER take when they start: an
/// estimate until it is measured on a GPU.
constexpr std::int64_t kDeviceLibraryBytes = 64 * kMiB + 100'000'000;
/// Not told by CUDA, so in no figure of use, but out of reach: the driver's context of a process, and NCCL's
/// buffers. Estimates until they are measured on a GPU.
constexpr std::int64_t kDriverBytes = 550'000'000;
constexpr std::int64_t kCollectiveBytes = 400'000'000;

/// kProductBytes of gemm.cu: a product that waits for its bias.
constexpr std::int64_t kBiasProductBytes = 256 * kMiB;
/// kLogitBytes of cross_entropy.cu.
constexpr std::int64_t kLogitBytes = std::int64_t{1} << 30;

std::int64_t element(const MemoryQuestion& q) {
  return static_cast<std::int64_t>(size_of(q.compute));
}

std::int64_t rows_of_one_rank(std::int64_t rows, int ranks) {
  constexpr std::int64_t panel = SolveOptions::kPanelRows;
  const std::int64_t panels = (rows + panel - 1) / panel;
  return std::min(rows, (panels + ranks - 1) / ranks * panel);
}

std::int64_t sum_bytes_of(const GroupShape& group) {
  return 8 * TriangularPanels::size(group.in_features) + 8 * group.cross_rows * group.in_features;
}

/// H itself and C, where the recipe needs them.
std::int64_t expanded_bytes_of(const MemoryQuestion& q, const GroupShape& group) {
  const bool needs_hessian = q.refines || group.aims_at_residual;
  return 4 * group.in_features * ((needs_hessian ? group.in_features : 0) + group.cross_rows);
}

/// What a chunk is compared with in the correction's sum.
std::int64_t difference_bytes(const MemoryQuestion& q) {
  return q.largest_chunk * element(q) * q.block.most_cross_rows();
}

std::int64_t factor_bytes_of(const GroupShape& group) {
  return 4 * group.in_features * group.in_features;
}

/// A block's weights as they are multiplied on a device.
std::int64_t device_block_bytes(const MemoryQuestion& q) {
  return element(q) * (q.block.parameters + q.block.padded_columns);
}

/// The present block and the next; the full-precision stream keeps what quantized layers replace.
std::int64_t device_weight_bytes(const MemoryQuestion& q) {
  const std::int64_t blocks = std::min<std::int64_t>(2, q.blocks) + (q.reference ? 1 : 0);
  return device_block_bytes(q) * blocks + q.block.conversion_bytes;
}

std::int64_t staging_bytes(const MemoryQuestion& q) {
  const std::int64_t streams = q.reference ? 2 : 1;
  const std::int64_t held_out = q.most_held_out_tokens > 0 ? 2 * q.largest_chunk * 4 * q.hidden_size : 0;
  return streams * 2 * q.largest_chunk * (4 * q.hidden_size + element(q) * q.block.widest_input) + held_out;
}

/// An expert's rows at its owner: what comes, what goes into its last linear, what goes home; of both
/// streams.
std::int64_t expert_row_bytes(const MemoryQuestion& q) {
  if (q.routed_rows == 0) return 0;
  const std::int64_t columns = q.hidden_size + q.expert_inputs;
  return q.routed_rows * (q.reference ? 2 : 1) * (element(q) * columns + 4 * q.hidden_size);
}

/// What the blocks' kernels need of a chunk: the outputs that are on their way, and a group's input and the
/// next one's where these do not lie in the activations.
std::int64_t forward_scratch_bytes(const MemoryQuestion& q, bool whole_blocks) {
  const std::int64_t inputs = whole_blocks ? 2 * q.block.widest_input : 0;
  return q.largest_chunk * element(q) * (q.block.scratch_columns + inputs) + expert_row_bytes(q);
}

/// A head ready to multiply with a chunk's states and logits.
std::int64_t device_loss_bytes(const MemoryQuestion& q, std::int64_t vocabulary) {
  if (vocabulary == 0) return 0;
  const std::int64_t states = q.largest_chunk * q.hidden_size * element(q);
  const std::int64_t logits = std::min(4 * q.largest_chunk * vocabulary, kLogitBytes);
  return vocabulary * q.hidden_size * element(q) + kConversionBytes + states + logits;
}

/// The same where kernels make no more than a tile's logits; the last block may still be on its way to its
/// file.
std::int64_t host_loss_bytes(const MemoryQuestion& q) {
  if (q.loss_vocabulary == 0) return 0;
  const std::int64_t prepared = (q.loss_vocabulary + q.largest_chunk) * q.hidden_size * element(q);
  return q.block.loaded_bytes + q.embedding_bytes + (q.device.separate ? 0 : prepared);
}

std::int64_t device_scratch_bytes(const MemoryQuestion& q) {
  const std::int64_t outputs = forward_scratch_bytes(q, q.most_held_out_tokens > 0);
  const bool waits_for_bias = q.block.widest_biased > 0 && q.compute == DType::bf16;
  const std::int64_t product =
      waits_for_bias ? std::min(q.largest_chunk * q.block.widest_biased * 4, kBiasProductBytes) : 0;
  // The Hessian's copy of a chunk is left out where rows are aligned: only extreme columns need it then.
  std::int64_t hessian = 0;
  for (const GroupShape& group : q.block.groups) {
    if (group.quantized_rows == 0) continue;
    const std::int64_t n = group.in_features;
    const std::int64_t copy = n % 8 == 0 ? 0 : q.largest_chunk * (n + 7) * element(q);
    // A cross sum has two chunks.
    const std::int64_t rows = group.cross_rows;
    const std::int64_t copies = copy + (rows % 8 == 0 ? 0 : q.largest_chunk * (rows + 7) * element(q));
    hessian = std::max(hessian, static_cast<std::int64_t>(cuda::cross_memory_bytes(rows, n, 0)) + copies);
  }
  return outputs + product + hessian + difference_bytes(q);
}

std::int64_t solve_bytes_of(const MemoryQuestion& q, const GroupShape& group) {
  const std::int64_t rows = rows_of_one_rank(group.quantized_rows, q.ranks);
  std::size_t kernels = cuda::solve_memory_bytes(rows, group.in_features, group.scale_groups);
  if (q.refines)
    kernels = std::max(kernels, cuda::refine_memory_bytes(rows, group.in_features, group.scale_groups));
  if (q.reference) kernels = std::max(kernels, cuda::correct_memory_bytes(rows, group.in_features));
  const auto kernel = static_cast<std::int64_t>(kernels);
  if (!q.calibrates) return kernel;
  return kernel + sum_bytes_of(group) + factor_bytes_of(group) + expanded_bytes_of(q, group);
}

void add_quantizing(const MemoryQuestion& q, const GroupShape& group, DeviceMemory& memory) {
  if (group.quantized_rows == 0) return;
  memory.solve_bytes = std::max(memory.solve_bytes, solve_bytes_of(q, group));
  if (!q.calibrates) return;
  const std::int64_t sum = sum_bytes_of(group);
  const auto factoring = static_cast<std::int64_t>(cuda::factor_memory_bytes(group.in_features));
  memory.sum_bytes = std::max(memory.sum_bytes, sum);
  memory.factor_bytes = std::max(memory.factor_bytes, sum + factor_bytes_of(group) + factoring);
  std::int64_t conversions = group.conversion_bytes;
  if (!q.true_sequential) {  // all layers change at once
    conversions = 0;
    for (const GroupShape& each : q.block.groups) conversions += each.conversion_bytes;
  }
  memory.replace_bytes = std::max(memory.replace_bytes, element(q) * group.largest_layer + conversions);
}

}  // namespace

PlannedDevice PlannedDevice::of(const Backend& backend, int ranks_on_device) {
  if (backend.shares_host_memory()) return {};
  return {true, backend.free_memory_bytes() / ranks_on_device + backend.peak_memory_bytes(), ranks_on_device};
}

PlannedDevice PlannedDevice::absent(std::int64_t total_bytes, int ranks_on_device, int ranks) {
  if (total_bytes == 0) return {};
  const std::int64_t unseen = kDriverBytes + (ranks > 1 && ranks_on_device == 1 ? kCollectiveBytes : 0);
  return {true, std::max<std::int64_t>(0, total_bytes / ranks_on_device - unseen), ranks_on_device};
}

std::int64_t widest_sum_bytes(const MemoryQuestion& q) {
  std::int64_t widest = 0;
  for (const GroupShape& group : q.block.groups) {
    if (group.quantized_rows > 0) widest = std::max(widest, sum_bytes_of(group));
  }
  return widest;
}

std::int64_t activation_bytes(const MemoryQuestion& q) {
  if (!q.calibrates) return 0;
  const std::int64_t residuals = q.true_sequential ? 1 : 2;
  const std::int64_t stream = 4 * q.hidden_size + element(q) * q.block.widest_input;
  std::int64_t kept = q.keeps_inputs ? element(q) * q.block.input_columns : 0;
  // Experts take their rows from what the router saw, in each stream.
  if (q.routed_rows > 0) kept += element(q) * q.hidden_size * (q.reference ? 2 : 1);
  return q.most_tokens * (4 * q.hidden_size * (residuals - 1) + stream * (q.reference ? 2 : 1) + kept) +
         q.most_held_out_tokens * 4 * q.hidden_size;
}

std::int64_t DeviceMemory::quantizing_bytes() const {
  return std::max({sum_bytes, factor_bytes, solve_bytes, replace_bytes});
}

DeviceMemory device_memory(const MemoryQuestion& q) {
  DeviceMemory memory;
  if (!q.device.separate) return memory;
  memory.library_bytes = kDeviceLibraryBytes;
  for (const GroupShape& group : q.block.groups) add_quantizing(q, group, memory);
  if (q.calibrates) {
    memory.activation_bytes = q.place == Place::device ? activation_bytes(q) : staging_bytes(q);
    memory.weight_bytes = device_weight_bytes(q);
    memory.scratch_bytes = device_scratch_bytes(q);
    memory.embedding_bytes = q.embedding_bytes;
    memory.loss_bytes = device_loss_bytes(q, q.loss_vocabulary);
  }
  memory.peak_bytes = memory.library_bytes + memory.activation_bytes +
                      std::max({memory.embedding_bytes,
                                memory.weight_bytes + memory.scratch_bytes + memory.quantizing_bytes(),
                                memory.loss_bytes > 0 ? memory.scratch_bytes + memory.loss_bytes : 0});
  return memory;
}

HostMemory host_memory(const MemoryQuestion& q) {
  HostMemory memory;
  const bool computes_here = !q.device.separate;
  memory.program_bytes = kProgramBytes + (computes_here ? 0 : kDeviceProgramBytes);
  const bool activations_here = q.place == Place::host || (q.place == Place::device && computes_here);
  memory.activation_bytes = activations_here ? activation_bytes(q) : 0;
  memory.weight_bytes = std::min<std::int64_t>(3, q.blocks) * q.block.loaded_bytes;
  std::int64_t widest_codes = 0;
  for (const GroupShape& group : q.block.groups) {
    widest_codes = std::max(widest_codes, group.quantized_rows * group.in_features);
    if (!computes_here || !q.calibrates || group.quantized_rows == 0) continue;
    const std::int64_t n = group.in_features;
    memory.hessian_bytes =
        std::max(memory.hessian_bytes, sum_bytes_of(group) + n * n * (8 + 4) + expanded_bytes_of(q, group));
  }
  // A group's codes come from the kernel, go through messages and into layers.
  memory.result_bytes = 2 * q.block.parameters + (q.ranks > 1 ? 3 : 1) * widest_codes;
  // Also where nothing is calibrated: the root looks through the tables for NaN before it begins.
  memory.embedding_bytes = q.embedding_bytes;
  if (q.calibrates) {
    if (computes_here) {
      memory.weight_bytes += element(q) * q.block.parameters * (q.reference ? 2 : 1);
      memory.scratch_bytes = forward_scratch_bytes(q, q.most_held_out_tokens > 0) + difference_bytes(q);
    }
    memory.loss_bytes = host_loss_bytes(q);
    if (q.checkpoints) {
      // The largest state is that inside the sum of the widest group.
      memory.snapshot_bytes = activation_bytes(q) + widest_sum_bytes(q) + q.block.parameters;
    }
  }
  memory.peak_bytes =
      memory.program_bytes + memory.activation_bytes + memory.snapshot_bytes +
      std::max({memory.embedding_bytes,
                memory.weight_bytes + memory.result_bytes + memory.scratch_bytes + memory.hessian_bytes,
                memory.loss_bytes > 0 ? memory.result_bytes + memory.scratch_bytes + memory.loss_bytes : 0});
  return memory;
}

std::int64_t evaluation_device_bytes(const MemoryQuestion& q, std::int64_t vocabulary) {
  const std::int64_t scratch = forward_scratch_bytes(q, true);
  const std::int64_t blocks =
      device_block_bytes(q) * std::min<std::int64_t>(2, q.blocks) + 2 * q.block.linears * kConversionBytes;
  const std::int64_t loss = device_loss_bytes(q, vocabulary);
  return kDeviceLibraryBytes + std::max(q.embedding_bytes, scratch + std::max(blocks, loss));
}

}  // namespace gptq
