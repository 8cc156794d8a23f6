#include "pipeline/job_report.h"

#include "base/clock.h"
#include "base/process.h"
#include "config/version.h"
#include "pipeline/gather.h"

namespace gptq {
namespace {

/// Of a job's whole work the part that the root does. Rows are dealt out evenly, factors are all its own.
std::map<std::string, PhaseFigures> root_work(const Plan& plan, const MatrixRates& rates) {
  const double tokens =
      plan.tokens == 0 ? 0 : static_cast<double>(plan.root_tokens) / static_cast<double>(plan.tokens);
  std::map<std::string, PhaseFigures> work;
  work["forward"].flops = plan.flops.forward * tokens;
  work["hessian"].flops = plan.flops.hessian * tokens;
  work["reference"].flops = plan.flops.reference * tokens;
  for (const char* phase : {"forward", "reference", "hessian"}) work[phase].limit = rates.compute;
  work["factor"].flops = plan.flops.factor;
  work["solve"].flops = plan.flops.solve / plan.ranks;
  work["correct"].flops = plan.flops.correct / plan.ranks;
  work["refine"].flops = plan.flops.refine / plan.ranks;
  for (const char* phase : {"solve", "correct", "refine"}) work[phase].limit = rates.f32;
  work["load"].bytes = static_cast<double>(plan.block_read_bytes);
  work["export"].bytes = static_cast<double>(plan.output_bytes);
  if (plan.ranks > 1) work["reduce"].bytes = static_cast<double>(plan.reduced_bytes + plan.broadcast_bytes);
  return work;
}

}  // namespace

MatrixRates measure_rates(const ComputeContext& compute) {
  MatrixRates rates;
  if (compute.dtype == DType::f32) {
    rates.compute = rates.f32 = measure_matrix_rate(*compute.backend, DType::f32, 0.25);
  } else {
    rates.compute = measure_matrix_rate(*compute.backend, compute.dtype, 0.15);
    rates.f32 = measure_matrix_rate(*compute.backend, DType::f32, 0.1);
  }
  return rates;
}

Report new_report(const JobConfig& job, const JobInputs& inputs, const ComputeContext& compute,
                  const Communicator& comm) {
  Report report;
  report.version = version();
  report.started = utc_now();
  report.ranks = comm.size();
  report.threads = compute.backend->threads();
  report.backend = compute.backend->name();
  report.device = compute.backend->describe();
  report.compute_dtype = name_of(compute.dtype);
  report.job = job;
  report.samples = static_cast<std::int64_t>(inputs.calibration.samples.size());
  report.tokens = inputs.calibration.tokens();
  report.calibration_sha256 = inputs.calibration.sha256;
  report.output = job.output.path;
  return report;
}

std::map<std::string, PhaseFigures> phase_figures(const std::map<std::string, double>& seconds,
                                                  const Plan& plan, const MatrixRates& rates, double done) {
  const std::map<std::string, PhaseFigures> work = root_work(plan, rates);
  std::map<std::string, PhaseFigures> figures;
  for (const auto& [name, duration] : seconds) {
    PhaseFigures& phase = figures[name];
    if (const auto found = work.find(name); found != work.end()) phase = found->second;
    phase.seconds = duration;
    phase.flops *= done;
    phase.bytes *= done;
  }
  return figures;
}

void add_ranks(double seconds, double waited_seconds, Communicator& comm, Report& report) {
  report.rank_times = gather_in_order<RankTimes>({{seconds, waited_seconds}}, comm);
}

void add_memory(const Plan& plan, const Backend& backend, bool checkpoint_due, Communicator& comm,
                Report& report) {
  std::vector<std::int64_t> sum{peak_memory_bytes()};
  std::vector<std::int64_t> most{sum[0], backend.shares_host_memory() ? 0 : backend.peak_memory_bytes()};
  comm.all_reduce_sum(sum);
  comm.all_reduce_max(most);
  report.peak_memory_bytes = sum[0];
  report.activations =
      plan.device.separate || plan.activation_place == Place::disk ? name_of(plan.activation_place) : "host";
  report.host_memory = {checkpoint_due ? plan.host.peak_bytes : plan.host.peak_without_snapshot(), most[0]};
  report.device_memory = {plan.device_memory.peak_bytes, most[1]};
}

}  // namespace gptq
