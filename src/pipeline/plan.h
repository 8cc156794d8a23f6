#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "config/job_config.h"
#include "io/calibration.h"
#include "model/weights.h"
#include "pipeline/activations.h"

namespace gptq {

/// What a job would do, computed from shapes alone. Immutable; prints itself.
struct Plan {
  // What it is planned for.
  int ranks = 1;
  DType compute = DType::f32;
  std::int64_t blocks = 0;
  std::int64_t layers = 0;  ///< linears to quantize
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::int64_t chunks = 0;
  std::int64_t idle_ranks = 0;  ///< ranks without samples; they help with the solves only

  // Bytes on the rank that needs most (the root: it holds the factorization).
  Place activation_place = Place::device;
  std::int64_t activation_bytes = 0;
  std::int64_t weight_bytes = 0;  ///< two blocks as read, one as multiplied
  std::int64_t scratch_bytes = 0;
  std::int64_t hessian_bytes = 0;    ///< integer sums, double matrix, factor and its copies
  std::int64_t embedding_bytes = 0;  ///< at the start only
  std::int64_t program_bytes = 0;    ///< code, libraries, MPI
  std::int64_t snapshot_bytes = 0;   ///< copy of the state while a checkpoint is written; 0: none is
  std::int64_t peak_bytes = 0;

  std::int64_t read_bytes = 0;  ///< source model, per rank
  std::int64_t output_bytes = 0;
  std::int64_t reduced_bytes = 0;     ///< integers summed over ranks during the job, per rank
  std::int64_t checkpoint_bytes = 0;  ///< largest generation, all ranks together
  std::int64_t checkpoint_keep = 0;   ///< generations on disk at a time, beside the one being written

  // Arithmetic, all ranks together.
  double forward_flops = 0;
  double hessian_flops = 0;
  double solve_flops = 0;

  double total_flops() const { return forward_flops + hessian_flops + solve_flops; }
  /// Wall seconds if every rank computes at this rate (FLOP/s); ranks without samples do not count.
  double seconds(double flops_per_rank) const;
  /// Throws UsageError with the figures and what to change if the ranks of this node need more than it has.
  void require_fit(std::int64_t node_memory_bytes, int ranks_on_node) const;
  /// disk_speed: bytes/s that all ranks together write.
  std::string text(double flops_per_rank, double disk_speed) const;
};

/// The machines a plan is made for; they need not be there.
struct PlannedMachines {
  int ranks = 1;
  int ranks_per_node = 0;              ///< 0: all on one node
  std::int64_t node_memory_bytes = 0;  ///< 0: as much as this one has
  double disk_speed = 1e9;             ///< bytes/s
};

/// backend: where it will be computed, whose free memory decides the place of the activations.
Plan make_plan(const JobConfig& job, const ModelWeights& model,
               const std::vector<std::int64_t>& sample_lengths, int ranks, const Backend& backend,
               DType compute);

/// Where `eval` keeps the residual stream of its samples.
Activations::Room evaluation_room(const JobConfig& job, const Backend& backend, const ModelWeights& model,
                                  const CalibrationData& data, int ranks);

/// FLOP/s of this rank's matrix products, measured for a quarter of a second.
double measure_matrix_rate(Backend& backend, DType compute);

/// What `quantize` would do with so many ranks, and the rate at which this machine would do it.
struct PlannedJob {
  Plan plan;
  double flops_per_rank = 0;
  double disk_speed = 1e9;
};

/// `gptq-hpc plan`. Throws UsageError if a node's ranks do not fit its memory.
PlannedJob run_plan(const JobConfig& job, const PlannedMachines& machines);

std::string to_json(const PlannedJob& planned);

}  // namespace gptq
