#include "pipeline/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "backend/device_matrix.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"
#include "io/calibration.h"
#include "model/safetensors_reader.h"
#include "pipeline/job_context.h"
#include "pipeline/job_directory.h"
#include "pipeline/progress.h"
#include "pipeline/sample_shard.h"
#include "quant/packing.h"
#include "quant/recipe.h"

namespace gptq {
namespace {

/// Resident before any work: the program, its libraries and Open MPI's buffers (measured: 60 to 90 MB).
constexpr std::int64_t kProgramBytes = 90'000'000;

std::int64_t quantized_bytes(const LinearShape& layer, const QuantizationSection& options) {
  const std::int64_t group = options.group_size < 0 ? layer.in_features : options.group_size;
  const std::int64_t groups = (layer.in_features + group - 1) / group;
  return 4 * packed_words(layer.in_features, options.bits) * layer.out_features +
         4 * packed_words(layer.out_features, options.bits) * groups + 2 * groups * layer.out_features +
         4 * layer.in_features;
}

struct BlockShape {
  std::int64_t parameters = 0;
  std::int64_t quantized_layers = 0;
  std::int64_t source_bytes = 0;
  std::int64_t saved_bytes = 0;  ///< source minus output
  std::int64_t widest_input = 0;
  std::int64_t widest_outputs = 0;  ///< of a stage group, all layers together
  std::int64_t triangle = 0;        ///< integer sums of all groups
  double hessian_flops_per_token = 0;
  double solve_flops = 0;
};

BlockShape measure_block(const ModelWeights& model, const Recipe& recipe, std::int64_t block) {
  BlockShape shape;
  const std::string prefix = block_prefix(model.architecture(), block);
  for (const StageGroup& group : model.groups()) {
    const double n = static_cast<double>(group.in_features);
    std::int64_t outputs = 0;
    bool any = false;
    for (const LinearShape& layer : group.layers) {
      const std::int64_t parameters = layer.in_features * layer.out_features;
      shape.parameters += parameters;
      outputs += layer.out_features;
      const std::string weight = prefix + layer.name + ".weight";
      const std::int64_t bytes =
          parameters * static_cast<std::int64_t>(model.files().contains(weight)
                                                     ? size_of(model.files().info(weight).dtype)
                                                     : size_of(model.config().dtype));
      shape.source_bytes += bytes;
      if (!recipe.selects(prefix + layer.name)) continue;
      any = true;
      shape.quantized_layers += 1;
      shape.saved_bytes += bytes - quantized_bytes(layer, recipe.section());
      shape.solve_flops += 3 * n * n * static_cast<double>(layer.out_features);
    }
    shape.widest_input = std::max(shape.widest_input, group.in_features);
    shape.widest_outputs = std::max(shape.widest_outputs, outputs);
    if (!any) continue;
    shape.triangle += TriangularPanels::size(group.in_features);
    shape.hessian_flops_per_token += n * n;  // half of the 2 n² of a full product
    shape.solve_flops += n * n * n / 3;
  }
  return shape;
}

double attention_flops(const ModelConfig& config, const std::vector<std::int64_t>& lengths) {
  double pairs = 0;
  for (std::int64_t length : lengths)
    pairs += 0.5 * static_cast<double>(length) * static_cast<double>(length + 1);
  return 4 * pairs * static_cast<double>(config.num_attention_heads * config.head_dim);
}

/// The largest state is that inside the sum of the widest group.
void plan_checkpoint(const JobConfig& job, const BlockShape& block, std::int64_t hidden_size,
                     std::int64_t most_tokens, Plan& plan) {
  if (!job.checkpoint.enabled || plan.tokens == 0) return;
  const std::int64_t residuals = job.quantization.true_sequential ? 1 : 2;
  const std::int64_t per_token =
      4 * hidden_size * residuals + static_cast<std::int64_t>(size_of(plan.compute)) * block.widest_input;
  const std::int64_t sum = 8 * TriangularPanels::size(block.widest_input);
  plan.snapshot_bytes = most_tokens * per_token + sum + block.parameters;
  plan.checkpoint_bytes = plan.tokens * per_token + (plan.ranks - plan.idle_ranks) * sum + block.parameters;
  plan.checkpoint_keep = job.checkpoint.keep;
}

/// others: device memory that everything else of the job needs.
Place place_of(const std::string& wanted, const Backend& backend, std::int64_t bytes, std::int64_t others) {
  if (wanted == "device") return Place::device;
  if (wanted == "host") return Place::host;
  if (wanted == "disk") return Place::disk;
  if (backend.shares_host_memory() || bytes + others <= backend.free_memory_bytes()) return Place::device;
  return bytes <= host_memory_bytes() / 2 ? Place::host : Place::disk;
}

}  // namespace

Plan make_plan(const JobConfig& job, const ModelWeights& model,
               const std::vector<std::int64_t>& sample_lengths, int ranks, const Backend& backend,
               DType compute) {
  const ModelConfig& config = model.config();
  const Recipe recipe(job.quantization);
  const std::vector<Chunk> chunks = make_chunks(sample_lengths, chunk_tokens_of(job, backend));
  Plan plan;
  plan.ranks = ranks;
  plan.compute = compute;
  plan.blocks = config.num_hidden_layers;
  plan.samples = static_cast<std::int64_t>(sample_lengths.size());
  plan.chunks = static_cast<std::int64_t>(chunks.size());

  std::int64_t most_tokens = 0;
  std::int64_t largest_chunk = 0;
  for (const Chunk& chunk : chunks) {
    plan.tokens += chunk.tokens;
    largest_chunk = std::max(largest_chunk, chunk.tokens);
  }
  for (int rank = 0; rank < ranks; ++rank) {
    const auto [first, last] = chunks_of_rank(chunks, rank, ranks);
    std::int64_t tokens = 0;
    for (std::size_t i = first; i < last; ++i) tokens += chunks[i].tokens;
    most_tokens = std::max(most_tokens, tokens);
    plan.idle_ranks += tokens == 0 ? 1 : 0;
  }

  const std::int64_t element = static_cast<std::int64_t>(size_of(compute));
  BlockShape largest;
  std::int64_t saved = 0;
  for (std::int64_t block = 0; block < plan.blocks; ++block) {
    const BlockShape shape = measure_block(model, recipe, block);
    plan.layers += shape.quantized_layers;
    plan.forward_flops += 2.0 * static_cast<double>(shape.parameters) * static_cast<double>(plan.tokens) +
                          attention_flops(config, sample_lengths);
    plan.hessian_flops += shape.hessian_flops_per_token * static_cast<double>(plan.tokens);
    plan.solve_flops += shape.solve_flops;
    plan.reduced_bytes += 8 * shape.triangle;
    saved += shape.saved_bytes;
    if (shape.source_bytes > largest.source_bytes) largest = shape;
  }
  if (job.quantization.method == "rtn") plan.forward_flops = plan.hessian_flops = plan.reduced_bytes = 0;

  const std::int64_t n = largest.widest_input;
  plan.activation_bytes = most_tokens * (4 * config.hidden_size + element * n);
  plan.weight_bytes = 2 * largest.source_bytes + element * largest.parameters;
  plan.scratch_bytes = largest_chunk * element * largest.widest_outputs;
  plan.hessian_bytes = plan.tokens == 0 ? 0 : 8 * TriangularPanels::size(n) + n * n * (8 + 4);
  plan.embedding_bytes =
      config.vocab_size * config.hidden_size * static_cast<std::int64_t>(size_of(config.dtype));
  plan.program_bytes = kProgramBytes;
  plan.activation_place = place_of(job.compute.activations, backend, plan.activation_bytes,
                                   plan.weight_bytes + plan.scratch_bytes + plan.hessian_bytes);
  plan_checkpoint(job, largest, config.hidden_size, most_tokens, plan);
  plan.peak_bytes =
      plan.program_bytes + plan.activation_bytes + plan.snapshot_bytes +
      std::max(plan.embedding_bytes, plan.weight_bytes + plan.scratch_bytes + plan.hessian_bytes);
  for (const auto& [name, info] : model.files().tensors())
    plan.read_bytes += static_cast<std::int64_t>(info.bytes);
  plan.output_bytes = plan.read_bytes - saved;
  return plan;
}

double Plan::seconds(double flops_per_rank) const {
  return total_flops() / (flops_per_rank * std::max(1, ranks - static_cast<int>(idle_ranks)));
}

void Plan::require_fit(std::int64_t node_memory_bytes, int ranks_on_node) const {
  if (peak_bytes * ranks_on_node <= node_memory_bytes) return;
  throw UsageError(
      "this job does not fit: a rank needs {} (activations {}, weights {}, Hessian {}), and {} rank(s) share "
      "{} on this "
      "node. Spread the ranks over more nodes, or use fewer calibration tokens.",
      bytes_text(peak_bytes), bytes_text(activation_bytes), bytes_text(weight_bytes),
      bytes_text(hessian_bytes), ranks_on_node, bytes_text(node_memory_bytes));
}

std::string Plan::text(double flops_per_rank, double disk_speed) const {
  std::string out;
  const auto line = [&out](const std::string& what, const std::string& value) {
    out += fmt::format("  {:<22}{}\n", what, value);
  };
  out += "work\n";
  line("blocks, layers", fmt::format("{} blocks, {} layers to quantize", blocks, layers));
  line("calibration", fmt::format("{} samples, {} tokens in {} chunks", samples, tokens, chunks));
  line("ranks", idle_ranks == 0
                    ? fmt::format("{}", ranks)
                    : fmt::format("{} ({} without samples: they help with the solves)", ranks, idle_ranks));
  line("arithmetic", fmt::format("{:.3g} TFLOP in {} (forward {:.3g}, Hessians {:.3g}, solves {:.3g})",
                                 total_flops() / 1e12, name_of(compute), forward_flops / 1e12,
                                 hessian_flops / 1e12, solve_flops / 1e12));
  out += "memory of the fullest rank\n";
  line("activations", bytes_text(activation_bytes));
  line("weights", fmt::format("{} (two blocks as read, one as multiplied)", bytes_text(weight_bytes)));
  line("Hessian and factor", bytes_text(hessian_bytes));
  line("scratch", bytes_text(scratch_bytes));
  line("embedding", fmt::format("{} (at the start only)", bytes_text(embedding_bytes)));
  if (snapshot_bytes > 0) {
    line("checkpoint snapshot", fmt::format("{} (while one is written)", bytes_text(snapshot_bytes)));
  }
  line("peak", bytes_text(peak_bytes));
  out += "data\n";
  line("read", fmt::format("{} by each rank, block by block", bytes_text(read_bytes)));
  line("summed over ranks", fmt::format("{} of integers", bytes_text(ranks > 1 ? reduced_bytes : 0)));
  line("output", bytes_text(output_bytes));
  if (checkpoint_bytes > 0) {
    line("checkpoint", fmt::format("{} at most by all ranks, in {} at {}/s beside the work; {} on disk",
                                   bytes_text(checkpoint_bytes),
                                   duration_text(static_cast<double>(checkpoint_bytes) / disk_speed),
                                   bytes_text(static_cast<std::int64_t>(disk_speed)),
                                   bytes_text(checkpoint_bytes * (checkpoint_keep + 1))));
  }
  out += "time\n";
  line("estimate",
       fmt::format("{} at {:.0f} GFLOP/s a rank (matrix products measured now on one rank, without I/O)",
                   duration_text(seconds(flops_per_rank)), flops_per_rank / 1e9));
  return out;
}

double measure_matrix_rate(Backend& backend, DType compute) {
  constexpr std::int64_t kRows = 2048;
  constexpr std::int64_t kWidth = 1024;
  const auto random = [](std::int64_t rows, DType dtype) {
    HostTensor tensor = make_tensor(DType::f32, {rows, kWidth});
    float* values = tensor.matrix().row<float>(0);
    std::uint32_t state = 1;
    for (std::int64_t i = 0; i < rows * kWidth; ++i) {
      state = state * 1664525u + 1013904223u;  // Numerical Recipes' generator: any non-constant values do
      values[i] = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
    }
    return convert(tensor, dtype);
  };
  const DeviceMatrix x(backend, random(kRows, compute));
  const HostTensor w = random(kWidth, DType::f32);
  const DeviceMatrix y(backend, compute, kRows, kWidth);
  const auto weights = backend.kernels().prepare_linear(w.matrix(), {}, compute);
  const Batch batch{{0, kRows}};
  const auto multiply = [&](int times) {
    for (int i = 0; i < times; ++i) backend.kernels().linear(batch, x.matrix(), *weights, y.matrix(), false);
    backend.synchronize();
  };
  multiply(1);
  Stopwatch watch;
  int runs = 0;
  // On a device, several at a time: waiting for each would count the waiting.
  const int at_once = backend.shares_host_memory() ? 1 : 200;
  do {
    multiply(at_once);
    runs += at_once;
  } while (watch.seconds() < 0.25);
  return 2.0 * kRows * kWidth * kWidth * runs / watch.seconds();
}

Activations::Room evaluation_room(const JobConfig& job, const Backend& backend, const ModelWeights& model,
                                  const CalibrationData& data, int ranks) {
  const std::int64_t bytes = 4 * model.config().hidden_size * data.tokens() / std::max(1, ranks);
  return {place_of(job.compute.activations, backend, bytes, bytes), spill_path(job)};
}

PlannedJob run_plan(const JobConfig& job, const PlannedMachines& machines) {
  const int ranks = machines.ranks;
  const int node_ranks = machines.ranks_per_node > 0 ? std::min(machines.ranks_per_node, ranks) : ranks;
  const ModelWeights model(job.model.path);
  model.check();
  std::vector<std::int64_t> lengths;
  if (job.quantization.method == "gptq") {
    const CalibrationData data =
        read_calibration(job.calibration.path, job.calibration.num_samples, model.config().vocab_size);
    check_tokenizer(data, job.model.path);
    for (const auto& sample : data.samples) lengths.push_back(static_cast<std::int64_t>(sample.size()));
  }
  const int cores = available_cores();
  const int threads = job.compute.threads > 0 ? job.compute.threads : std::max(1, cores / node_ranks);
  const ComputeContext context = make_local_compute(job.compute, threads);
  const Plan plan = make_plan(job, model, lengths, ranks, *context.backend, context.dtype);
  plan.require_fit(machines.node_memory_bytes > 0 ? machines.node_memory_bytes : host_memory_bytes(),
                   node_ranks);
  return {plan, measure_matrix_rate(*context.backend, context.dtype), machines.disk_speed};
}

std::string to_json(const PlannedJob& planned) {
  const Plan& plan = planned.plan;
  const nlohmann::json json = {
      {"ranks", plan.ranks},
      {"compute_dtype", name_of(plan.compute)},
      {"layers", plan.layers},
      {"samples", plan.samples},
      {"tokens", plan.tokens},
      {"peak_bytes", plan.peak_bytes},
      {"read_bytes", plan.read_bytes},
      {"output_bytes", plan.output_bytes},
      {"snapshot_bytes", plan.snapshot_bytes},
      {"checkpoint_bytes", plan.checkpoint_bytes},
      {"checkpoint_seconds", static_cast<double>(plan.checkpoint_bytes) / planned.disk_speed},
      {"reduced_bytes", plan.reduced_bytes},
      {"flops",
       {{"forward", plan.forward_flops}, {"hessian", plan.hessian_flops}, {"solve", plan.solve_flops}}},
      {"flops_per_second_per_rank", planned.flops_per_rank},
      {"seconds", plan.seconds(planned.flops_per_rank)}};
  return json.dump(2) + "\n";
}

}  // namespace gptq
