#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "model/model_shape.h"
#include "pipeline/plan_shapes.h"
#include "pipeline/sample_shard.h"
#include "quant/recipe.h"

/// What a job does to a block, counted in calls of kernels as machine descriptions know them.
namespace gptq {

/// Calls of one kernel.
struct WorkItem {
  std::string kernel;  ///< of kernel_names()
  double each = 0;     ///< FLOP or bytes of a call
  double calls = 1;
};
using WorkList = std::vector<WorkItem>;

/// The samples of a rank, as far as their work goes.
struct TokenShare {
  struct Part {
    std::int64_t tokens = 0, chunks = 0;
    std::map<std::int64_t, std::int64_t> samples;  ///< how many of each length

    /// Tokens that attend to each other, where each sees itself and window - 1 before it (0: all).
    double pairs(std::int64_t window) const;
    double mean_chunk() const {
      return chunks == 0 ? 0 : static_cast<double>(tokens) / static_cast<double>(chunks);
    }
    void operator+=(const Part& other);
    bool operator==(const Part&) const = default;
  };
  Part all, summed, held_out;  ///< all of them; those in Hessians; those in none

  bool operator==(const TokenShare&) const = default;
};
TokenShare share_of(const std::vector<Chunk>& chunks, const std::vector<std::int64_t>& sample_lengths,
                    int replica, int replicas);

/// How the experts of a block lie on the ranks of its stage: each rank owns some, or some ranks share one.
/// Routing is taken to be uniform, which no real one is.
struct ExpertShare {
  std::int64_t own = 0;  ///< experts of the rank that has most
  int ranks = 1;         ///< that share an expert; of the group with fewest
};
ExpertShare share_of_experts(std::int64_t experts, int replicas);

/// The work of one block. Of the rows, what the rank with most panels of them solves: all meet afterwards.
/// Work on experts is what the fullest rank does for all that it owns; its samples are those of routed().
class BlockWork {
 public:
  /// model: must outlive it.
  BlockWork(const ModelShape& model, const JobConfig& job, const Recipe& recipe, std::int64_t block,
            DType compute, int replicas = 1);

  std::int64_t steps() const { return static_cast<std::int64_t>(layout_.steps.size()); }
  std::int64_t groups() const { return static_cast<std::int64_t>(shape_.groups.size()); }
  std::int64_t first_group(std::int64_t step) const { return layout_.first_group(step); }
  bool quantizes(std::int64_t group) const { return at(group).quantized_rows > 0; }
  bool corrects(std::int64_t group) const { return at(group).cross_rows > 0; }
  bool has_experts(std::int64_t group) const { return at(group).experts > 0; }
  bool step_has_experts(std::int64_t step) const { return has_experts(first_group(step)); }
  const ExpertShare& expert_share() const { return experts_; }
  /// What the fullest rank gets of all ranks' samples for its experts: products of a forward pass take one
  /// expert's rows of one chunk, those of a sum as many rows as a chunk has.
  TokenShare routed(const TokenShare& everyone) const;
  /// The reference passes the step before it is quantized.
  bool reference_first(std::int64_t step) const { return at(first_group(step)).aims_at_residual; }

  WorkList enter(const TokenShare::Part& part) const;
  WorkList advance(std::int64_t step, const TokenShare::Part& part) const;  ///< to the next step's input
  /// Enter and all steps; routed: of experts.
  WorkList pass(const TokenShare::Part& part, const TokenShare::Part& routed) const;
  WorkList sums(std::int64_t group, const TokenShare::Part& part) const;  ///< H, and C where it is needed
  WorkList factor(std::int64_t group) const;                              ///< Cholesky
  /// H and C as matrices where the recipe needs them, on each rank.
  WorkList expand(std::int64_t group) const;
  WorkList correct(std::int64_t group, int ranks) const;
  WorkList solve(std::int64_t group, int ranks) const;  ///< all variants and candidates
  WorkList refine(std::int64_t group, int ranks) const;
  WorkList gather(std::int64_t group, int ranks) const;  ///< putting codes into layers, on each rank
  WorkList judge(std::int64_t group, const TokenShare::Part& held_out) const;
  WorkList replace(std::int64_t step) const;  ///< quantized weights made ready
  WorkList prepare() const;                   ///< original ones
  WorkList decode() const;
  WorkList pack_dense() const, pack_experts() const;  ///< by the root, and by each rank

  double sum_bytes(std::int64_t group) const;                 ///< integers that ranks add
  double factor_bytes(std::int64_t group) const;              ///< of R, of all orders of columns
  double code_bytes(std::int64_t group) const;                ///< that ranks gather: all variants
  double exchange_bytes(const TokenShare::Part& part) const;  ///< rows that a rank sends to experts
  double return_bytes(const TokenShare::Part& part) const;    ///< and gets back
  // Rows that move where the activations do not lie where the kernels run.
  double enter_bytes(const TokenShare::Part& part) const;
  double advance_bytes(std::int64_t step, const TokenShare::Part& part) const;
  double summed_bytes(std::int64_t group, const TokenShare::Part& part) const;

  double shared_bytes() const;       ///< of the files, what every rank of the stage reads
  double own_bytes() const;          ///< and what one reads alone: its experts
  double written_bytes() const;      ///< of the output, by the root
  double own_written_bytes() const;  ///< and by each rank: its experts

 private:
  const GroupShape& at(std::int64_t group) const { return shape_.groups[static_cast<std::size_t>(group)]; }
  const BlockStep& step(std::int64_t step) const { return layout_.steps[static_cast<std::size_t>(step)]; }
  std::string typed(const char* kernel) const;
  WorkItem rows(double bytes_a_token, const TokenShare::Part& part) const;
  void add_linears(const StageGroup& group, const TokenShare::Part& part, WorkList& work) const;
  void add_attention(const TokenShare::Part& part, WorkList& work) const;
  void add_residual(std::int64_t step, const TokenShare::Part& part, WorkList& work) const;
  std::int64_t step_of(std::int64_t group) const { return layout_.step_of(group); }
  double rows_share(std::int64_t group, int ranks) const;
  double repeats(std::int64_t group) const;
  double own_part() const;
  double orders(bool refined) const;  ///< different factors; those that a refinement needs H beside
  double variants(std::int64_t group, bool refined) const;

  const ModelShape& model_;
  BlockLayout layout_;
  std::int64_t block_;
  BlockShape shape_;
  QuantizationSection section_;
  std::vector<QuantizationSection> candidates_;  ///< the section itself first
  DType compute_;
  double element_;
  bool judged_;  ///< candidates are compared on held-out samples
  ExpertShare experts_;
};

}  // namespace gptq
