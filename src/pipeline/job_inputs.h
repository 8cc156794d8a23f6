#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "config/job_config.h"
#include "io/calibration.h"
#include "model/weights.h"
#include "pipeline/job_context.h"
#include "pipeline/plan.h"

namespace gptq {

/// A quantize job's inputs, checked; the same on every rank.
struct JobInputs {
  std::unique_ptr<ModelWeights> model;
  CalibrationData calibration;  ///< no samples for round-to-nearest
  double held_out_part = 0;     ///< calibration.held_out

  std::vector<std::int64_t> sample_lengths() const;
  std::int64_t widest_step() const;     ///< columns of its input
  std::int64_t held_out() const;        ///< samples that enter no Hessian
  std::int64_t summed_samples() const;  ///< the others
  std::int64_t summed_tokens() const;
};

/// The root looks first, so that a mistake is told once. Collective.
JobInputs open_inputs(const JobConfig& job, Communicator& comm);

/// What to plan: these inputs on the ranks of `comm`. Memory is that of the rank that has least of it, so
/// that all ranks plan the same. Borrows job and inputs. Collective.
PlanRequest plan_request(const JobConfig& job, const JobInputs& inputs, const ComputeContext& compute,
                         Communicator& comm);

}  // namespace gptq
