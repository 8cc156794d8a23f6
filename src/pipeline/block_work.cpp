#include "pipeline/block_work.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"
#include "pipeline/row_solver.h"
#include "quant/candidates.h"

namespace gptq {
namespace {

/// Rows of an expert's products are filled up to a multiple of this.
constexpr double kExpertRows = 64;

double whole(std::int64_t number) {
  return static_cast<double>(number);
}

}  // namespace

double TokenShare::Part::pairs(std::int64_t window) const {
  double sum = 0;
  for (const auto& [length, count] : samples) {
    const double seen = whole(window > 0 ? std::min(window, length) : length);
    sum += whole(count) * (0.5 * seen * (seen + 1) + (whole(length) - seen) * seen);
  }
  return sum;
}

void TokenShare::Part::operator+=(const Part& other) {
  tokens += other.tokens;
  chunks += other.chunks;
  for (const auto& [length, count] : other.samples) samples[length] += count;
}

TokenShare share_of(const std::vector<Chunk>& chunks, const std::vector<std::int64_t>& sample_lengths,
                    int replica, int replicas) {
  TokenShare share;
  const auto [first, last] = chunks_of_rank(chunks, replica, replicas);
  for (std::size_t i = first; i < last; ++i) {
    TokenShare::Part part{chunks[i].tokens, 1, {}};
    for (std::int64_t s = chunks[i].first_sample; s < chunks[i].first_sample + chunks[i].samples; ++s)
      part.samples[sample_lengths[static_cast<std::size_t>(s)]] += 1;
    share.all += part;
    (chunks[i].held_out ? share.held_out : share.summed) += part;
  }
  return share;
}

ExpertShare share_of_experts(std::int64_t experts, int replicas) {
  if (experts == 0) return {};
  if (replicas <= experts) return {(experts + replicas - 1) / replicas, 1};
  return {1, static_cast<int>(replicas / experts)};
}

BlockWork::BlockWork(const ModelShape& model, const JobConfig& job, const Recipe& recipe, std::int64_t block,
                     DType compute, int replicas)
    : model_(model),
      layout_(model.layout(block)),
      block_(block),
      shape_(measure_block(model, job, recipe, block, compute)),
      section_(recipe.section()),
      candidates_(candidates_of(section_)),
      compute_(compute),
      element_(static_cast<double>(size_of(compute))),
      judged_(job.calibration.held_out > 0) {
  for (const GroupShape& group : shape_.groups)
    if (group.experts > 0) experts_ = share_of_experts(group.experts, replicas);
}

TokenShare BlockWork::routed(const TokenShare& everyone) const {
  const std::int64_t experts = shape_.groups.back().experts;
  if (experts == 0) return {};
  const double part = whole(model_.experts_per_token()) / whole(experts);
  const auto of_chunks = [&](const TokenShare::Part& all) {
    const double rows = std::ceil(all.mean_chunk() * part / kExpertRows) * kExpertRows;
    TokenShare::Part own;
    own.chunks = experts_.own * ((all.chunks + experts_.ranks - 1) / experts_.ranks);
    own.tokens = own.chunks * static_cast<std::int64_t>(rows);
    return own;
  };
  TokenShare result{of_chunks(everyone.all), {}, of_chunks(everyone.held_out)};
  if (everyone.summed.chunks == 0) return result;
  const double tokens = std::ceil(whole(everyone.summed.tokens) * part / experts_.ranks);
  result.summed.tokens = experts_.own * static_cast<std::int64_t>(tokens);
  result.summed.chunks =
      experts_.own * static_cast<std::int64_t>(std::ceil(tokens / everyone.summed.mean_chunk()));
  return result;
}

std::string BlockWork::typed(const char* kernel) const {
  return std::string(kernel) + (compute_ == DType::bf16 ? ".bf16" : ".f32");
}

WorkItem BlockWork::rows(double bytes_a_token, const TokenShare::Part& part) const {
  return {"rows", bytes_a_token * part.mean_chunk(), whole(part.chunks)};
}

/// Of each norm in front, the residual stream is read and its input written; then columns' maxima are taken.
WorkList BlockWork::enter(const TokenShare::Part& part) const {
  return {rows((4 + 2 * element_) * whole(step(0).width), part)};
}

void BlockWork::add_linears(const StageGroup& group, const TokenShare::Part& part, WorkList& work) const {
  for (const LinearShape& layer : group.layers) {
    const double size = whole(layer.in_features) * whole(layer.out_features);
    work.push_back({typed("linear"), 2 * size * part.mean_chunk(), whole(part.chunks)});
  }
}

void BlockWork::add_attention(const TokenShare::Part& part, WorkList& work) const {
  const ModelConfig& config = model_.config();
  double passes = config.positions == Positions::rotary ? 1 : 0;
  if (config.head_norm != HeadNorm::none) passes += 1;
  if (config.qkv_form == QkvForm::by_head || config.qkv_form == QkvForm::by_group)
    passes += 1;  // taken apart
  if (passes > 0) work.push_back(rows(passes * 2 * element_ * whole(model_.query_key_columns()), part));
  const std::int64_t window = config.attention[static_cast<std::size_t>(block_)].window;
  const double chunks = whole(std::max<std::int64_t>(1, part.chunks));
  work.push_back(
      {typed("attention"), model_.flops_of_pair() * part.pairs(window) / chunks, whole(part.chunks)});
}

/// What goes over the residual stream once the step's linear has been added to it.
void BlockWork::add_residual(std::int64_t at, const TokenShare::Part& part, WorkList& work) const {
  const double hidden = whole(model_.config().hidden_size);
  // A norm or factor of its own: y in single precision is read and written, and added.
  if (!step(at).groups.front().adds_to_residual) work.push_back(rows(20 * hidden, part));
  if (at + 1 == steps()) return;
  const double next = whole(step(at + 1).width);
  work.push_back(rows(4 * hidden + 2 * element_ * next, part));
}

WorkList BlockWork::advance(std::int64_t at, const TokenShare::Part& part) const {
  WorkList work;
  for (const StageGroup& group : step(at).groups) add_linears(group, part, work);
  if (step(at).writes_residual) {
    add_residual(at, part, work);
    return work;
  }
  const BlockStep& next = step(at + 1);
  if (next.groups.front().name == "attention_out") add_attention(part, work);
  double inner = 0;  // outputs of gate and up; their product is a step's input behind this one
  for (const StageGroup& group : step(at).groups) {
    for (const LinearShape& layer : group.layers)
      if (group.name.ends_with("_in") && group.name != "attention_in") inner += whole(layer.out_features);
  }
  const ModelConfig& config = model_.config();
  if (step(at).groups.front().name == "block_in")
    inner -= whole((config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim);
  // The next input is written once and looked through for its maximum.
  work.push_back(rows(element_ * (inner + 2 * whole(next.width)), part));
  return work;
}

WorkList BlockWork::pass(const TokenShare::Part& part, const TokenShare::Part& routed) const {
  WorkList work = enter(part);
  for (std::int64_t at = 0; at < steps(); ++at) {
    const WorkList next = advance(at, step_has_experts(at) ? routed : part);
    work.insert(work.end(), next.begin(), next.end());
  }
  return work;
}

WorkList BlockWork::sums(std::int64_t group, const TokenShare::Part& part) const {
  const GroupShape& shape = at(group);
  const double n = whole(shape.in_features), cross = whole(shape.cross_rows), calls = whole(part.chunks);
  WorkList work{{typed("hessian"), n * n * part.mean_chunk(), calls}};
  // Rows are weighed twice: for their maximum and for the sum.
  if (section_.token_weight == "residual" && step(step_of(group)).writes_residual)
    work.push_back(rows(2 * (4 * whole(model_.config().hidden_size) + 2 * element_ * n), part));
  if (cross == 0) return work;
  work.push_back({typed("cross"), 2 * cross * n * part.mean_chunk(), calls});
  // D twice: for its bound and for the sum.
  work.push_back(rows(2 * cross * (8 + 2 * element_), part));
  return work;
}

double BlockWork::repeats(std::int64_t group) const {
  return has_experts(group) ? whole(experts_.own) : 1;
}

double BlockWork::orders(bool refined) const {
  std::vector<const QuantizationSection*> made;
  for (const QuantizationSection& candidate : candidates_) {
    if (refined && candidate.refine_sweeps == 0) continue;
    const auto same = [&](const QuantizationSection* other) { return same_columns(*other, candidate); };
    if (std::none_of(made.begin(), made.end(), same)) made.push_back(&candidate);
  }
  return static_cast<double>(made.size());
}

WorkList BlockWork::factor(std::int64_t group) const {
  const double n = whole(at(group).in_features);
  return {{"factor", n * n * n / 3, orders(false) * repeats(group)}};
}

WorkList BlockWork::expand(std::int64_t group) const {
  const GroupShape& shape = at(group);
  const double n = whole(shape.in_features);
  const double hessians = std::max(orders(true), shape.aims_at_residual ? 1.0 : 0.0);
  WorkList work{{"expand", 4 * n * n, hessians * repeats(group)}};
  if (shape.cross_rows > 0) work.push_back({"expand", 4 * n * whole(shape.cross_rows), repeats(group)});
  return work;
}

double BlockWork::rows_share(std::int64_t group, int ranks) const {
  constexpr std::int64_t panel = SolveOptions::kPanelRows;
  if (has_experts(group)) ranks = experts_.ranks;
  const std::int64_t rows = at(group).quantized_rows;
  const std::int64_t panels = (rows + panel - 1) / panel;
  return whole(std::min(rows, (panels + ranks - 1) / ranks * panel));
}

double BlockWork::variants(std::int64_t group, bool refined) const {
  double count = 0;
  for (const Variant& variant : variants_of(section_, corrects(group), judged_))
    count += !refined || variant.refined ? 1 : 0;
  return count;
}

WorkList BlockWork::correct(std::int64_t group, int ranks) const {
  if (!corrects(group)) return {};
  const double n = whole(at(group).in_features);
  return {{"correct", 4 * rows_share(group, ranks) * n * n, repeats(group)}};  // of all variants once
}

WorkList BlockWork::solve(std::int64_t group, int ranks) const {
  const double n = whole(at(group).in_features);
  const auto others = static_cast<double>(candidates_.size() - 1);
  return {{"solve", 2 * rows_share(group, ranks) * n * n,
           repeats(group) * (variants(group, false) + variants(group, true) * others)}};
}

WorkList BlockWork::refine(std::int64_t group, int ranks) const {
  const double n = whole(at(group).in_features);
  double sweeps = 0;
  for (const QuantizationSection& candidate : candidates_) sweeps += candidate.refine_sweeps;
  if (sweeps == 0) return {};
  return {{"refine", 2 * rows_share(group, ranks) * n * n, repeats(group) * variants(group, true) * sweeps}};
}

WorkList BlockWork::gather(std::int64_t group, int ranks) const {
  if (has_experts(group)) ranks = experts_.ranks;
  // Serialized, received, placed; with one rank moved or copied once.
  return {{"rows", (ranks > 1 ? 6 : 2) * code_bytes(group), 1}};
}

WorkList BlockWork::judge(std::int64_t group, const TokenShare::Part& held_out) const {
  if (!judged_ || held_out.chunks == 0) return {};
  WorkList work;
  const double passes = variants(group, false);
  for (const LinearShape& layer : layout_.group(group).layers) {
    const double size = whole(layer.in_features) * whole(layer.out_features);
    work.push_back({"prepare", element_ * size, passes * repeats(group)});
    // The candidate's outputs, and what they are compared with.
    const double both = at(group).aims_at_residual ? 1 : 2;
    work.push_back(
        {typed("linear"), 2 * size * held_out.mean_chunk(), both * passes * whole(held_out.chunks)});
    work.push_back(
        {"rows", 12 * whole(layer.out_features) * held_out.mean_chunk(), passes * whole(held_out.chunks)});
  }
  return work;
}

WorkList BlockWork::replace(std::int64_t at) const {
  WorkList work;
  for (std::size_t g = 0; g < step(at).groups.size(); ++g) {
    double elements = 0;
    for (const LinearShape& layer : step(at).groups[g].layers)
      elements += whole(layer.in_features) * whole(layer.out_features);
    work.push_back({"prepare", element_ * elements, repeats(first_group(at) + static_cast<std::int64_t>(g))});
  }
  return work;
}

/// Of the block's experts, what one rank owns.
double BlockWork::own_part() const {
  const std::int64_t experts = shape_.groups.back().experts;
  return experts == 0 ? 0 : whole(experts_.own) / whole(experts);
}

double BlockWork::shared_bytes() const {
  return whole(shape_.source_bytes - shape_.expert_source_bytes);
}

double BlockWork::own_bytes() const {
  return own_part() * whole(shape_.expert_source_bytes);
}

double BlockWork::written_bytes() const {
  return whole(shape_.ordinary_bytes - shape_.expert_ordinary_bytes) -
         whole(shape_.saved_bytes - shape_.expert_saved_bytes);
}

double BlockWork::own_written_bytes() const {
  return own_part() * whole(shape_.expert_ordinary_bytes - shape_.expert_saved_bytes);
}

WorkList BlockWork::prepare() const {
  const double dense = whole(shape_.parameters - shape_.expert_parameters);
  return {{"prepare", element_ * (dense + own_part() * whole(shape_.expert_parameters)), 1}};
}

WorkList BlockWork::decode() const {
  return {{"decode", shared_bytes() + own_bytes(), 1}};
}

WorkList BlockWork::pack_dense() const {
  return {{"pack", written_bytes(), 1}};
}

WorkList BlockWork::pack_experts() const {
  return {{"pack", own_written_bytes(), 1}};
}

double BlockWork::sum_bytes(std::int64_t group) const {
  const GroupShape& shape = at(group);
  return 8 * repeats(group) *
         whole(TriangularPanels::size(shape.in_features) + shape.cross_rows * shape.in_features);
}

double BlockWork::factor_bytes(std::int64_t group) const {
  const double n = whole(at(group).in_features);
  return 4 * n * n * orders(false) * repeats(group);
}

double BlockWork::code_bytes(std::int64_t group) const {
  return repeats(group) * variants(group, false) * whole(at(group).quantized_rows * at(group).in_features);
}

double BlockWork::exchange_bytes(const TokenShare::Part& part) const {
  return whole(part.tokens * model_.experts_per_token()) * element_ * whole(model_.config().hidden_size);
}

double BlockWork::return_bytes(const TokenShare::Part& part) const {
  return whole(part.tokens * model_.experts_per_token()) * 4 * whole(model_.config().hidden_size);
}

double BlockWork::enter_bytes(const TokenShare::Part& part) const {
  return whole(part.tokens) * (4 * whole(model_.config().hidden_size) + element_ * whole(step(0).width));
}

double BlockWork::advance_bytes(std::int64_t at, const TokenShare::Part& part) const {
  const double next = at + 1 < steps() ? whole(step(at + 1).width) : 0;
  const double stream = step(at).writes_residual ? 8 * whole(model_.config().hidden_size) : 0;
  return whole(part.tokens) * (stream + element_ * (whole(step(at).width) + next));
}

double BlockWork::summed_bytes(std::int64_t group, const TokenShare::Part& part) const {
  const double hidden = 4 * whole(model_.config().hidden_size);
  const double x = element_ * whole(step(step_of(group)).width);
  const bool weighted = section_.token_weight == "residual" && step(step_of(group)).writes_residual;
  double bytes = (weighted ? 2 : 1) * (x + (weighted ? hidden : 0));
  // Both streams, for the bound of D and for its sum.
  if (corrects(group)) bytes += 2 * (x + hidden + (at(group).aims_at_residual ? hidden : x));
  return whole(part.tokens) * bytes;
}

}  // namespace gptq
