#pragma once

#include <cstdint>
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
    double pairs = 0;  ///< of tokens that attend to each other

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

/// The work of one block. Of the rows, what the rank with most panels of them solves: all meet afterwards.
class BlockWork {
 public:
  BlockWork(const ModelShape& model, const JobConfig& job, const Recipe& recipe, std::int64_t block,
            DType compute);

  std::int64_t groups() const { return static_cast<std::int64_t>(shape_.groups.size()); }
  bool quantizes(std::int64_t group) const { return at(group).quantized_rows > 0; }
  bool corrects(std::int64_t group) const { return at(group).cross_rows > 0; }
  /// The reference passes the group before it is quantized.
  bool reference_first(std::int64_t group) const { return at(group).aims_at_residual; }

  WorkList enter(const TokenShare::Part& part) const;
  WorkList advance(std::int64_t group, const TokenShare::Part& part) const;  ///< to the next group's input
  WorkList pass(const TokenShare::Part& part) const;                         ///< enter and all groups
  WorkList sums(std::int64_t group, const TokenShare::Part& part) const;     ///< H, and C where it is needed
  WorkList factor(std::int64_t group) const;                                 ///< Cholesky
  WorkList expand(
      std::int64_t group) const;  ///< H and C as matrices where the recipe needs them, on each rank
  WorkList correct(std::int64_t group, int ranks) const;
  WorkList solve(std::int64_t group, int ranks) const;  ///< all variants and candidates
  WorkList refine(std::int64_t group, int ranks) const;
  WorkList gather(std::int64_t group, int ranks) const;  ///< putting codes into layers, on each rank
  WorkList judge(std::int64_t group, const TokenShare::Part& held_out) const;
  WorkList replace(std::int64_t group) const;  ///< quantized weights made ready
  WorkList prepare() const;                    ///< original ones
  WorkList decode() const;
  WorkList pack() const;

  double sum_bytes(std::int64_t group) const;     ///< integers that ranks add
  double factor_bytes(std::int64_t group) const;  ///< of R
  double code_bytes(std::int64_t group) const;    ///< that ranks gather: all variants
  double read_bytes() const { return static_cast<double>(shape_.source_bytes); }
  double written_bytes() const { return static_cast<double>(shape_.source_bytes - shape_.saved_bytes); }

 private:
  const GroupShape& at(std::int64_t group) const { return shape_.groups[static_cast<std::size_t>(group)]; }
  std::string typed(const char* kernel) const;
  WorkItem rows(double bytes_a_token, const TokenShare::Part& part) const;
  double rows_share(std::int64_t group, int ranks) const;
  double variants(std::int64_t group, bool refined) const;

  ModelConfig config_;
  std::vector<StageGroup> layers_;
  BlockShape shape_;
  QuantizationSection section_;
  DType compute_;
  double element_;
  bool judged_;  ///< candidates are compared on held-out samples
  double parameters_ = 0;
};

}  // namespace gptq
