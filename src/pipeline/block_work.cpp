#include "pipeline/block_work.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "pipeline/row_solver.h"

namespace gptq {

void TokenShare::Part::operator+=(const Part& other) {
  tokens += other.tokens;
  chunks += other.chunks;
  pairs += other.pairs;
}

TokenShare share_of(const std::vector<Chunk>& chunks, const std::vector<std::int64_t>& sample_lengths,
                    int replica, int replicas) {
  TokenShare share;
  const auto [first, last] = chunks_of_rank(chunks, replica, replicas);
  for (std::size_t i = first; i < last; ++i) {
    TokenShare::Part part{chunks[i].tokens, 1, 0};
    for (std::int64_t s = chunks[i].first_sample; s < chunks[i].first_sample + chunks[i].samples; ++s) {
      const auto length = static_cast<double>(sample_lengths[static_cast<std::size_t>(s)]);
      part.pairs += 0.5 * length * (length + 1);
    }
    share.all += part;
    (chunks[i].held_out ? share.held_out : share.summed) += part;
  }
  return share;
}

BlockWork::BlockWork(const ModelShape& model, const JobConfig& job, const Recipe& recipe, std::int64_t block,
                     DType compute)
    : config_(model.config()),
      layers_(model.groups(block)),
      shape_(measure_block(model, job, recipe, block, compute)),
      section_(recipe.section()),
      compute_(compute),
      element_(static_cast<double>(size_of(compute))),
      judged_(job.calibration.held_out > 0),
      parameters_(static_cast<double>(shape_.parameters)) {}

std::string BlockWork::typed(const char* kernel) const {
  return std::string(kernel) + (compute_ == DType::bf16 ? ".bf16" : ".f32");
}

WorkItem BlockWork::rows(double bytes_a_token, const TokenShare::Part& part) const {
  return {"rows", bytes_a_token * part.mean_chunk(), static_cast<double>(part.chunks)};
}

/// RMS norm of the residual stream and the maximum of its columns.
WorkList BlockWork::enter(const TokenShare::Part& part) const {
  const auto hidden = static_cast<double>(config_.hidden_size);
  return {rows(hidden * (4 + 2 * element_), part)};
}

WorkList BlockWork::advance(std::int64_t group, const TokenShare::Part& part) const {
  WorkList work;
  const StageGroup& present = layers_[static_cast<std::size_t>(group)];
  for (const LinearShape& layer : present.layers) {
    const auto size = static_cast<double>(layer.in_features * layer.out_features);
    work.push_back({typed("linear"), 2 * size * part.mean_chunk(), static_cast<double>(part.chunks)});
  }
  const bool last = group + 1 == groups();
  const double next = last ? 0 : static_cast<double>(at(group + 1).in_features);
  if (present.adds_to_residual) {
    if (!last) work.push_back(rows(next * (4 + 2 * element_), part));
    return work;
  }
  double outputs = 0;
  for (const LinearShape& layer : present.layers) outputs += static_cast<double>(layer.out_features);
  if (group == 0) {  // rotary of q and k, in place; attention; the maximum
    const auto values = static_cast<double>(config_.num_key_value_heads * config_.head_dim);
    work.push_back(rows(element_ * (2 * (outputs - values) + next), part));
    const double flops = 4 * part.pairs * static_cast<double>(config_.num_attention_heads * config_.head_dim);
    const auto chunks = static_cast<double>(std::max<std::int64_t>(1, part.chunks));
    work.push_back({typed("attention"), flops / chunks, static_cast<double>(part.chunks)});
  } else {  // activation of gate and up, and the maximum
    work.push_back(rows(element_ * (outputs + 2 * next), part));
  }
  return work;
}

WorkList BlockWork::pass(const TokenShare::Part& part) const {
  WorkList work = enter(part);
  for (std::int64_t group = 0; group < groups(); ++group) {
    const WorkList next = advance(group, part);
    work.insert(work.end(), next.begin(), next.end());
  }
  return work;
}

WorkList BlockWork::sums(std::int64_t group, const TokenShare::Part& part) const {
  const GroupShape& shape = at(group);
  const auto n = static_cast<double>(shape.in_features);
  const auto cross = static_cast<double>(shape.cross_rows);
  const auto calls = static_cast<double>(part.chunks);
  WorkList work{{typed("hessian"), n * n * part.mean_chunk(), calls}};
  if (section_.token_weight == "residual" && group % 2 == 1)
    work.push_back(rows(2 * (4 * static_cast<double>(config_.hidden_size) + 2 * element_ * n), part));
  if (cross == 0) return work;
  work.push_back({typed("cross"), 2 * cross * n * part.mean_chunk(), calls});
  // D twice: for its bound and for the sum.
  work.push_back(rows(2 * cross * (8 + 2 * element_), part));
  return work;
}

WorkList BlockWork::factor(std::int64_t group) const {
  const auto n = static_cast<double>(at(group).in_features);
  double orders = 1;
  if (!section_.best_of.empty()) orders += static_cast<double>(section_.best_of.size());  // at most
  return {{"factor", n * n * n / 3, orders}};
}

WorkList BlockWork::expand(std::int64_t group) const {
  const GroupShape& shape = at(group);
  const auto n = static_cast<double>(shape.in_features);
  WorkList work;
  if (section_.refine_sweeps > 0 || shape.aims_at_residual) work.push_back({"expand", 4 * n * n, 1});
  if (shape.cross_rows > 0) work.push_back({"expand", 4 * n * static_cast<double>(shape.cross_rows), 1});
  return work;
}

double BlockWork::rows_share(std::int64_t group, int ranks) const {
  constexpr std::int64_t panel = SolveOptions::kPanelRows;
  const std::int64_t rows = at(group).quantized_rows;
  const std::int64_t panels = (rows + panel - 1) / panel;
  return static_cast<double>(std::min(rows, (panels + ranks - 1) / ranks * panel));
}

double BlockWork::variants(std::int64_t group, bool refined) const {
  double count = 0;
  for (const Variant& variant : variants_of(section_, corrects(group), judged_))
    count += !refined || variant.refined ? 1 : 0;
  return count;
}

WorkList BlockWork::correct(std::int64_t group, int ranks) const {
  const auto n = static_cast<double>(at(group).in_features);
  const double rows = rows_share(group, ranks);
  if (!corrects(group)) return {};
  return {{"correct", 4 * rows * n * n, 1}};  // of all variants once
}

WorkList BlockWork::solve(std::int64_t group, int ranks) const {
  const auto n = static_cast<double>(at(group).in_features);
  const double rows = rows_share(group, ranks);
  const auto candidates = static_cast<double>(section_.best_of.size());
  return {{"solve", 2 * rows * n * n, variants(group, false) + variants(group, true) * candidates}};
}

WorkList BlockWork::refine(std::int64_t group, int ranks) const {
  const auto n = static_cast<double>(at(group).in_features);
  const double rows = rows_share(group, ranks);
  if (section_.refine_sweeps == 0) return {};
  const auto candidates = static_cast<double>(1 + section_.best_of.size());
  return {{"refine", 2 * rows * n * n, variants(group, true) * candidates * section_.refine_sweeps}};
}

WorkList BlockWork::gather(std::int64_t group, int ranks) const {
  // Serialized, received, placed; with one rank moved or copied once.
  return {{"rows", (ranks > 1 ? 6 : 2) * code_bytes(group), 1}};
}

WorkList BlockWork::judge(std::int64_t group, const TokenShare::Part& held_out) const {
  if (!judged_ || held_out.chunks == 0) return {};
  WorkList work;
  const double passes = variants(group, false);
  for (const LinearShape& layer : layers_[static_cast<std::size_t>(group)].layers) {
    const auto size = static_cast<double>(layer.in_features * layer.out_features);
    work.push_back({"prepare", element_ * size, passes});
    // The candidate's outputs, and what they are compared with.
    const double both = corrects(group) && at(group).aims_at_residual ? 1 : 2;
    work.push_back({typed("linear"), 2 * size * held_out.mean_chunk(),
                    both * passes * static_cast<double>(held_out.chunks)});
    work.push_back({"rows", 12 * static_cast<double>(layer.out_features) * held_out.mean_chunk(),
                    passes * static_cast<double>(held_out.chunks)});
  }
  return work;
}

WorkList BlockWork::replace(std::int64_t group) const {
  double elements = 0;
  for (const LinearShape& layer : layers_[static_cast<std::size_t>(group)].layers)
    elements += static_cast<double>(layer.in_features * layer.out_features);
  return {{"prepare", element_ * elements, 1}};
}

WorkList BlockWork::prepare() const {
  return {{"prepare", element_ * parameters_, 1}};
}

WorkList BlockWork::decode() const {
  return {{"decode", read_bytes(), 1}};
}

WorkList BlockWork::pack() const {
  return {{"pack", written_bytes(), 1}};
}

double BlockWork::sum_bytes(std::int64_t group) const {
  const GroupShape& shape = at(group);
  return 8 * static_cast<double>(TriangularPanels::size(shape.in_features) +
                                 shape.cross_rows * shape.in_features);
}

double BlockWork::factor_bytes(std::int64_t group) const {
  const auto n = static_cast<double>(at(group).in_features);
  return 4 * n * n;
}

double BlockWork::code_bytes(std::int64_t group) const {
  return variants(group, false) * static_cast<double>(at(group).quantized_rows * at(group).in_features);
}

}  // namespace gptq
