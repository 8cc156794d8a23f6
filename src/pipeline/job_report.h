#pragma once

#include <map>
#include <string>

#include "comm/communicator.h"
#include "io/report.h"
#include "pipeline/job_context.h"
#include "pipeline/job_inputs.h"
#include "pipeline/plan.h"

/// What a quantize job reports beside its layers.
namespace gptq {

/// FLOP/s of large matrix products on this rank.
struct MatrixRates {
  double compute = 0;  ///< in the compute type: forward and Hessian
  double f32 = 0;      ///< the solve
};

/// Takes a quarter of a second.
MatrixRates measure_rates(const ComputeContext& compute);

/// A report of nothing done yet.
Report new_report(const JobConfig& job, const JobInputs& inputs, const ComputeContext& compute,
                  const Communicator& comm);

/// Seconds by phase with the root's work in them. done: the part of the job's work that this attempt did.
std::map<std::string, PhaseFigures> phase_figures(const std::map<std::string, double>& seconds,
                                                  const Plan& plan, const MatrixRates& rates, double done);

/// Fills in how long every rank worked and waited; seconds, waited_seconds: this rank's. Collective.
void add_ranks(double seconds, double waited_seconds, Communicator& comm, Report& report);

/// Fills in memory predicted and used. checkpoint_due: a snapshot was probably taken. Collective.
void add_memory(const Plan& plan, const Backend& backend, bool checkpoint_due, Communicator& comm,
                Report& report);

}  // namespace gptq
