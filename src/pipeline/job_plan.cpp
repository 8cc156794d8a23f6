#include "pipeline/job_plan.h"

#include <algorithm>

#include "base/log.h"
#include "base/process.h"
#include "pipeline/grid_choice.h"
#include "pipeline/grid_search.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

/// What this very layout should take on the machine that was described.
PredictedPhases predict(const PlanRequest& request, const Plan& plan, const GridShape& grid,
                        const Backend& backend, const std::string& description) {
  Machine machine = read_machine(find_machine(description));
  // Ranks that are bound to cores have no others for reading and packing either.
  machine.node.cores = std::min(machine.node.cores, available_cores() * request.ranks_on_node);
  GridChoice choice;
  choice.grid = grid;
  choice.threads = backend.threads();
  choice.ranks_on_node = request.ranks_on_node;
  choice.full_precision = request.job.quantization.propagation == "full_precision";
  choice.helpers = grid.stages > 1 && stages_help(request.job);
  require_links(machine, {request.ranks, request.ranks_on_node});
  if (machine.is_cpu() == request.device.separate) {
    throw UsageError("--machine: {} describes a machine of {}, but this job computes on {}", machine.name,
                     machine.is_cpu() ? "CPUs" : machine.device.kind, backend.describe());
  }
  const SimulatedJob predicted = simulate(request, plan, machine, choice);
  PredictedPhases phases{machine.name + ", " + machine.provenance(), predicted.root};
  log::info("{} predicted by {}", duration_text(predicted.seconds), phases.machine);
  return phases;
}

std::string layout_text(const GridShape& grid, int threads) {
  if (grid.stages == 1) return fmt::format("{} ranks x {} threads", grid.replicas, threads);
  return fmt::format("{} stages x {} replicas x {} threads", grid.stages, grid.replicas, threads);
}

}  // namespace

FittingPlan make_fitting_plan(const JobConfig& job, const JobInputs& inputs, const ComputeContext& compute,
                              const GridShape& grid, const std::string& machine, Communicator& comm) {
  PlanRequest request = plan_request(job, inputs, compute, comm);
  request.stages = grid.stages;
  FittingPlan made{make_plan(request), {}};
  run_on_root(comm, [&] {
    log::info("{}, {}, {} arithmetic", layout_text(grid, compute.backend->threads()),
              compute.backend->describe(), name_of(compute.dtype));
    require_fit(request, made.plan);
    if (!machine.empty()) made.predicted = predict(request, made.plan, grid, *compute.backend, machine);
  });
  return made;
}

}  // namespace gptq
