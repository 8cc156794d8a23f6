#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "io/calibration.h"
#include "model/model_shape.h"
#include "pipeline/activations.h"
#include "pipeline/plan_memory.h"
#include "pipeline/planned_device.h"

namespace gptq {

/// Floating-point operations of a job: additions and multiplications of its matrix products, those by known
/// zeros left out.
struct Arithmetic {
  double forward = 0;    ///< linears (2·m·n a token) and attention (its lower triangle)
  double reference = 0;  ///< the same of the full-precision stream
  double held_out = 0;   ///< the same of one of the held-out samples alone, and both models' heads on these
  double hessian = 0;  ///< n² a token: one triangle of 2·n²; with the correction 2·n² more for its cross sum
  double factor = 0;  ///< n³/3, in double precision
  /// 2·m·n² a layer of m rows: the update of the columns not yet visited and the norm of the layer's outputs,
  /// m·n² each. The search for scales is not counted.
  double solve = 0;
  double correct = 0;  ///< 4·m·n²: a product and two triangular solves
  double refine = 0;   ///< 2·m·n² a sweep and candidate

  double total() const {
    return forward + reference + held_out + hessian + factor + solve + correct + refine;
  }
};

/// Which samples go through the original weights, beside the stream through the quantized ones: those that
/// errors are made up for with (correction_alpha), or those that end-to-end figures are reported of.
enum class ReferenceStream { none, held_out, all };

/// What a job would do, computed from shapes alone. Immutable; prints itself.
struct Plan {
  // What it is planned for.
  int ranks = 1;
  int stages = 1;
  DType compute = DType::f32;
  PlannedDevice device{};
  std::int64_t blocks = 0;
  std::int64_t layers = 0;  ///< linears to quantize
  std::int64_t samples = 0;
  std::int64_t experts = 0, experts_per_token = 0;  ///< of a block; 0: none has any
  std::int64_t tokens = 0;
  std::int64_t root_tokens = 0;  ///< of rank 0
  std::int64_t chunks = 0;
  std::int64_t chunk_tokens = 0;
  std::int64_t held_out_tokens = 0;
  ReferenceStream reference = ReferenceStream::none;
  std::int64_t idle_ranks = 0;  ///< ranks without samples; they help with the solves only

  // Memory of the rank that needs most (the root: it factors and exports).
  Place activation_place = Place::device;
  HostMemory host;
  DeviceMemory device_memory;  ///< zeros if the device has none of its own

  std::int64_t read_bytes = 0;         ///< source model, per rank
  std::int64_t block_read_bytes = 0;   ///< of it, the blocks
  std::int64_t expert_read_bytes = 0;  ///< of the source, the experts, by all ranks
  std::int64_t output_bytes = 0;
  std::int64_t reduced_bytes = 0;     ///< integers summed over ranks during the job, per rank
  std::int64_t broadcast_bytes = 0;   ///< factors, given to every rank
  std::int64_t checkpoint_bytes = 0;  ///< largest generation, all ranks together
  std::int64_t checkpoint_keep = 0;   ///< generations on disk at a time, beside the one being written

  Arithmetic flops;  ///< all ranks together

  /// Wall seconds if every rank computes at this rate (FLOP/s); ranks without samples do not count.
  double seconds(double flops_per_rank) const;
  /// flops_per_rank: 0: not known; below 0: not a word about time. disk_speed: bytes/s that all ranks
  /// together write.
  std::string text(double flops_per_rank, double disk_speed) const;
};

/// What a plan is made from.
struct PlanRequest {
  const JobConfig& job;
  ModelShape model;
  std::vector<std::int64_t> sample_lengths;
  int ranks = 1;
  DType compute = DType::f32;
  PlannedDevice device{};
  std::int64_t node_memory_bytes = 0;  ///< of the host
  int ranks_on_node = 1;               ///< that share it
  int stages = 1;  ///< of the ranks: each holds its own blocks, ranks / stages the samples

  std::int64_t host_bytes_per_rank() const { return node_memory_bytes / ranks_on_node; }
};

/// Chooses the place of the activations where the job leaves it open: the device if they fit there with 5 %
/// to spare, else the host if they fit there, else disk.
Plan make_plan(const PlanRequest& request);

/// Throws UsageError if the plan needs more of the device's memory, or of a node's, than there is: with the
/// figures and the settings nearest to these that would fit.
void require_fit(const PlanRequest& request, const Plan& plan);
bool fits(const PlanRequest& request, const Plan& plan);

/// Where `eval` keeps the residual stream of its samples.
Activations::Room evaluation_room(const JobConfig& job, const Backend& backend, const ModelWeights& model,
                                  const CalibrationData& data, int ranks);

/// FLOP/s of this rank's matrix products, measured for so many seconds (at least one run).
double measure_matrix_rate(Backend& backend, DType compute, double seconds = 0.25);

/// The machines a plan is made for; they need not be there.
struct PlannedMachines {
  int ranks = 1;
  int ranks_per_node = 0;                 ///< 0: all on one node
  int ranks_per_device = 1;               ///< that share a GPU
  std::int64_t node_memory_bytes = 0;     ///< 0: as much as this one has
  std::int64_t device_memory_bytes = -1;  ///< of a GPU that is not here; 0: a CPU; -1: what is here
  double device_rate = 0;                 ///< FLOP/s of that GPU; 0: not known
  double disk_speed = 1e9;                ///< bytes/s
};

/// What `quantize` would do with so many ranks, and the rate at which they would do it.
struct PlannedJob {
  Plan plan;
  double flops_per_rank = 0;  ///< 0: not known
  double disk_speed = 1e9;
};

/// `gptq-hpc plan`. Throws UsageError if the job does not fit.
PlannedJob run_plan(const JobConfig& job, const PlannedMachines& machines);

std::string to_json(const PlannedJob& planned);

}  // namespace gptq
