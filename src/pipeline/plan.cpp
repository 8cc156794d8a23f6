#include "pipeline/plan.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/process.h"
#include "pipeline/job_context.h"
#include "pipeline/job_directory.h"
#include "pipeline/sample_shard.h"
#include "quant/recipe.h"

namespace gptq {
namespace {

/// Pairs of tokens where each sees itself and window - 1 before it (0: all).
double pairs(std::span<const std::int64_t> lengths, std::int64_t window) {
  double sum = 0;
  for (const std::int64_t length : lengths) {
    const auto seen = static_cast<double>(window > 0 ? std::min(window, length) : length);
    sum += 0.5 * seen * (seen + 1) + (static_cast<double>(length) - seen) * seen;
  }
  return sum;
}

/// Of a forward pass through a block.
double pass_flops(const BlockShape& shape, const ModelShape& model, std::int64_t block,
                  std::span<const std::int64_t> lengths) {
  const std::int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  const std::int64_t window = model.config().attention[static_cast<std::size_t>(block)].window;
  return 2.0 * static_cast<double>(shape.active_parameters) * static_cast<double>(tokens) +
         model.flops_of_pair() * pairs(lengths, window);
}

std::span<const std::int64_t> held_out_lengths(const PlanRequest& request) {
  const auto samples = static_cast<std::int64_t>(request.sample_lengths.size());
  const std::int64_t held_out = held_out_samples(samples, request.job.calibration.held_out);
  return std::span(request.sample_lengths).last(static_cast<std::size_t>(held_out));
}

ReferenceStream reference_of(const PlanRequest& request) {
  if (uses_reference(request.job)) return ReferenceStream::all;
  return held_out_lengths(request).empty() ? ReferenceStream::none : ReferenceStream::held_out;
}

/// A group's Hessian, factor and solves; of experts, all of them.
void add_group(const GroupShape& group, const PlanRequest& request, Plan& plan) {
  if (group.quantized_rows == 0) return;
  const QuantizationSection& options = request.job.quantization;
  const auto n = static_cast<double>(group.in_features);
  const auto count = static_cast<double>(std::max<std::int64_t>(1, group.experts));
  const double product = count * 2 * n * n * static_cast<double>(group.quantized_rows);
  const auto candidates = static_cast<double>(1 + options.best_of.size());
  const auto times = static_cast<double>(group.experts > 0 ? request.model.experts_per_token() : 1);
  const double summed = times * static_cast<double>(plan.tokens - plan.held_out_tokens);
  plan.flops.hessian += n * (n + 2 * static_cast<double>(group.cross_rows)) * summed;
  plan.flops.factor += count * n * n * n / 3;
  plan.flops.solve += product * candidates;
  plan.flops.refine += product * candidates * options.refine_sweeps;
  if (group.cross_rows > 0) plan.flops.correct += 2 * product;
  if (group.experts > 0) return;  // an expert's sums and factor stay with its owner
  plan.reduced_bytes += 8 * group.cross_rows * group.in_features;
  plan.reduced_bytes += 8 * TriangularPanels::size(group.in_features);
  plan.broadcast_bytes += 4 * group.in_features * group.in_features;
}

void add_block(const BlockShape& shape, std::int64_t block, const PlanRequest& request, Plan& plan) {
  plan.layers += shape.quantized_layers;
  const double passes = request.job.quantization.true_sequential ? 1 : 2;
  const double pass = pass_flops(shape, request.model, block, request.sample_lengths);
  plan.flops.forward += passes * pass;
  if (plan.reference == ReferenceStream::all) plan.flops.reference += pass;
  if (plan.reference == ReferenceStream::held_out)
    plan.flops.held_out += pass_flops(shape, request.model, block, held_out_lengths(request));
  for (const GroupShape& group : shape.groups) add_group(group, request, plan);
  plan.block_read_bytes += shape.source_bytes;
  plan.expert_read_bytes += shape.expert_source_bytes;
  plan.output_bytes -= shape.saved_bytes;
}

/// Rows of the expert that a rank has at hand.
std::int64_t routed_rows(const Plan& plan) {
  return plan.experts == 0 ? 0 : (plan.tokens * plan.experts_per_token + plan.experts - 1) / plan.experts;
}

void plan_samples(const PlanRequest& request, const std::vector<Chunk>& chunks, Plan& plan,
                  MemoryQuestion& question) {
  plan.samples = static_cast<std::int64_t>(request.sample_lengths.size());
  plan.chunks = static_cast<std::int64_t>(chunks.size());
  for (const Chunk& chunk : chunks) {
    plan.tokens += chunk.tokens;
    plan.held_out_tokens += chunk.held_out ? chunk.tokens : 0;
    question.largest_chunk = std::max(question.largest_chunk, chunk.tokens);
  }
  const int replicas = plan.ranks / plan.stages;
  for (int rank = 0; rank < replicas; ++rank) {
    const auto [first, last] = chunks_of_rank(chunks, rank, replicas);
    std::int64_t tokens = 0, held_out = 0;
    for (std::size_t i = first; i < last; ++i) {
      tokens += chunks[i].tokens;
      held_out += chunks[i].held_out ? chunks[i].tokens : 0;
    }
    if (rank == 0) plan.root_tokens = tokens;
    question.most_tokens = std::max(question.most_tokens, tokens);
    if (plan.reference == ReferenceStream::held_out)
      question.most_held_out_tokens = std::max(question.most_held_out_tokens, held_out);
    plan.idle_ranks += tokens == 0 ? plan.stages : 0;
  }
}

std::optional<Place> named_place(const std::string& name) {
  for (const Place place : {Place::device, Place::host, Place::disk}) {
    if (name == name_of(place)) return place;
  }
  return std::nullopt;
}

Place chosen_place(const std::string& wanted, MemoryQuestion question, std::int64_t host_bytes) {
  if (const std::optional<Place> named = named_place(wanted)) return *named;
  question.place = Place::device;
  if (question.device.separate) {
    const auto needed = static_cast<double>(device_memory(question).peak_bytes);
    if (1.05 * needed <= static_cast<double>(question.device.memory_bytes)) return Place::device;
    question.place = Place::host;
  }
  return host_memory(question).peak_bytes <= host_bytes ? question.place : Place::disk;
}

MemoryQuestion question_of(const PlanRequest& request) {
  const ModelConfig& config = request.model.config();
  MemoryQuestion question;
  question.device = request.device;
  question.compute = request.compute;
  question.ranks = request.ranks;
  question.calibrates = request.job.quantization.method == "gptq" && !request.sample_lengths.empty();
  question.true_sequential = request.job.quantization.true_sequential;
  question.reference = question.calibrates && uses_reference(request.job);
  question.keeps_inputs = question.calibrates && request.job.quantization.propagation == "full_precision";
  question.refines = request.job.quantization.refine_sweeps > 0;
  question.checkpoints = request.job.checkpoint.enabled;
  question.hidden_size = config.hidden_size;
  question.embedding_bytes =
      config.vocab_size * config.hidden_size * static_cast<std::int64_t>(size_of(config.dtype));
  question.blocks = config.num_hidden_layers;
  return question;
}

void plan_checkpoint(const MemoryQuestion& question, const JobConfig& job, Plan& plan) {
  if (plan.host.snapshot_bytes == 0) return;
  MemoryQuestion everyone = question;
  everyone.most_tokens = plan.tokens;
  if (plan.reference == ReferenceStream::held_out) everyone.most_held_out_tokens = plan.held_out_tokens;
  const std::int64_t sum = widest_sum_bytes(question);
  plan.checkpoint_bytes =
      activation_bytes(everyone) + (plan.ranks - plan.idle_ranks) * sum + question.block.parameters;
  plan.checkpoint_keep = job.checkpoint.keep;
}

}  // namespace

Plan make_plan(const PlanRequest& request) {
  const JobConfig& job = request.job;
  const Recipe recipe(job.quantization);
  Plan plan;
  GPTQ_EXPECT(request.stages >= 1 && request.ranks % request.stages == 0);
  plan.ranks = request.ranks;
  plan.stages = request.stages;
  plan.compute = request.compute;
  plan.device = request.device;
  plan.blocks = request.model.config().num_hidden_layers;
  plan.chunk_tokens = chunk_tokens_of(job, request.device.separate);
  MemoryQuestion question = question_of(request);
  plan.reference = reference_of(request);
  const auto held_out = static_cast<std::int64_t>(held_out_lengths(request).size());
  plan_samples(request, make_chunks(request.sample_lengths, plan.chunk_tokens, held_out), plan, question);
  if (held_out > 0) {
    const ModelConfig& config = request.model.config();
    question.loss_vocabulary = config.vocab_size;
    // The heads of both models.
    plan.flops.held_out += 4.0 * static_cast<double>(plan.held_out_tokens) *
                           static_cast<double>(config.vocab_size * config.hidden_size);
  }

  plan.read_bytes = request.model.source_bytes();
  plan.output_bytes = request.model.ordinary_bytes() + request.model.untied_head_bytes() -
                      saved_by_head(request.model, job, recipe);
  for (std::int64_t block = 0; block < plan.blocks; ++block) {
    add_block(measure_block(request.model, job, recipe, block, plan.compute), block, request, plan);
    // Of experts, the present one and the next are in memory.
    BlockShape shape = measure_block(request.model, job, recipe, block, plan.compute, 2);
    if (shape.groups.back().experts > 0) {  // a dense block may be larger than one of experts (DeepSeek)
      plan.experts = shape.groups.back().experts;
      question.expert_inputs = shape.groups.back().in_features;
    }
    if (shape.loaded_bytes > question.block.loaded_bytes) question.block = std::move(shape);
  }
  plan.experts_per_token = request.model.experts_per_token();
  question.routed_rows = routed_rows(plan);
  if (!question.calibrates) {
    plan.flops = {};
    plan.reduced_bytes = plan.broadcast_bytes = 0;
  }

  // Of the blocks a rank reads those of its stage, and of their experts its own.
  const std::int64_t replicas = plan.ranks / plan.stages;
  const std::int64_t expert_part = plan.expert_read_bytes / std::max<std::int64_t>(1, replicas);
  const std::int64_t own = (plan.block_read_bytes - plan.expert_read_bytes + expert_part) / plan.stages;
  plan.read_bytes -= plan.block_read_bytes - own;
  plan.block_read_bytes = own;
  question.place = chosen_place(job.compute.activations, question, request.host_bytes_per_rank());
  plan.activation_place = question.place;
  plan.host = host_memory(question);
  plan.device_memory = device_memory(question);
  plan_checkpoint(question, job, plan);
  return plan;
}

double Plan::seconds(double flops_per_rank) const {
  return flops.total() / (flops_per_rank * std::max(1, ranks - static_cast<int>(idle_ranks)));
}

Activations::Room evaluation_room(const JobConfig& job, const Backend& backend, const ModelWeights& model,
                                  const CalibrationData& data, int ranks) {
  constexpr std::int64_t chunk_tokens = 2048;  // the evaluation's; a longer sample is a chunk of its own
  MemoryQuestion question;
  question.device = PlannedDevice::of(backend, 1);
  question.compute = job.compute.dtype == "fp32" ? DType::f32 : DType::bf16;
  question.hidden_size = model.config().hidden_size;
  question.embedding_bytes =
      model.config().vocab_size * model.config().hidden_size * static_cast<std::int64_t>(sizeof(float));
  question.blocks = model.config().num_hidden_layers;
  question.block = measure_block(model, job, Recipe(job.quantization), 0, question.compute);
  question.largest_chunk = std::max<std::int64_t>(chunk_tokens, data.longest());
  const std::int64_t bytes = 4 * question.hidden_size * data.tokens() / std::max(1, ranks);
  const std::int64_t needed = evaluation_device_bytes(question, model.config().vocab_size) + bytes;
  const bool fits = !question.device.separate || needed + needed / 20 <= question.device.memory_bytes;
  const Place roomiest = bytes <= host_memory_bytes() / 2 ? Place::host : Place::disk;
  const Place place = named_place(job.compute.activations).value_or(fits ? Place::device : roomiest);
  return {place, spill_path(job)};
}

}  // namespace gptq
