#include "pipeline/quantize_job.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "pipeline/end_to_end.h"
#include "pipeline/finished_output.h"
#include "pipeline/grid_choice.h"
#include "pipeline/grid_parts.h"
#include "pipeline/job_plan.h"
#include "pipeline/job_report.h"
#include "pipeline/job_trace.h"
#include "pipeline/stage_rounds.h"
#include "pipeline/stage_turns.h"

namespace gptq {
namespace {

std::int64_t safetensors_bytes(const std::filesystem::path& directory) {
  std::int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") bytes += static_cast<std::int64_t>(entry.file_size());
  }
  return bytes;
}

/// What is asked of the ranks, before any file is read.
GridShape checked_grid(const JobConfig& job, int ranks) {
  const GridShape grid = grid_of(job.parallel, ranks);
  if (grid.stages > 1) stages_help(job);  // throws where that cannot be
  return grid;
}

class QuantizeJob {
 public:
  QuantizeJob(const JobConfig& job, const QuantizeOptions& options, Communicator& comm, JobInputs inputs,
              ComputeContext compute)
      : job_(job),
        options_(options),
        comm_(comm),
        inputs_(std::move(inputs)),
        compute_(std::move(compute)),
        shape_(grid_of(job.parallel, comm.size())),
        run_(job_, inputs_, compute_, comm_),
        phases_(*compute_.backend, options.trace.empty() ? nullptr : &trace_),
        waited_before_(comm.waited_seconds()) {}

  Report run() {
    report_ = new_report(job_, inputs_, compute_, comm_);
    report_.already_finished = already_finished(job_, run_.fingerprint(), comm_);
    if (report_.already_finished) return report_;
    if (!options_.trace.empty()) clock_ahead_ = clock_ahead_of_root(comm_);
    try {
      prepare();
      work();
      finish();
    } catch (const Stopped&) {  // which all ranks are
      write_timeline();
      throw;
    } catch (const DeviceError& error) {
      throw DeviceError("{}, {}, phase {}: {}", host_name(), compute_.backend->describe(), phases_.last(),
                        error.what());  // main adds the rank
    }
    return report_;
  }

 private:
  bool calibrates() const { return job_.quantization.method == "gptq"; }

  /// Everything that can refuse the job does so here, before the first token is computed.
  void prepare() {
    FittingPlan fitting = make_fitting_plan(job_, inputs_, compute_, shape_, options_.machine, comm_);
    plan_ = std::move(fitting.plan);
    report_.predicted = std::move(fitting.predicted);
    {
      const auto scope = phases_.in("measure");
      rates_ = measure_rates(compute_);
    }
    run_.open(options_.fresh);
    grid_.emplace(comm_, shape_, run_.first_block(), inputs_.model->config().num_hidden_layers);
    if (shape_.stages > 1) replica_device_ = make_team_collectives(compute_, grid_->replicas(), job_);
    run_.open_output(*grid_, phases_.trace());
    if (calibrates()) make_streams();
    if (run_.checkpoint() != nullptr) {
      take_up(*run_.checkpoint());
    } else if (streams_ && grid_->holds(0)) {
      const auto scope = phases_.in("embed");
      streams_->embed();
    }
    if (calibrates())
      positions_ = {*compute_.backend, inputs_.model->config(), inputs_.calibration.longest()};
    run_.start_checkpoints(*compute_.backend, phases_);
  }

  void make_streams() {
    const Activations::Room room{plan_.activation_place, spill_path(job_)};
    // With full-precision propagation every step's input has a place of its own.
    const bool quantizes_head = run_.recipe().quantizes_head(std::string(inputs_.model->architecture().head));
    const std::int64_t width = takes_turns(job_) ? inputs_.widest_step()
                               : quantizes_head  ? inputs_.model->config().hidden_size
                                                 : 0;
    streams_.emplace(inputs_, compute_, plan_, room, grid_->place().replica, width);
    routes_.emplace(*compute_.backend, *grid_, streams_->all(), phases_);
  }

  /// Goes to where an earlier attempt was. Its samples are with the stage that has the first block now.
  void take_up(const CheckpointManifest& manifest) {
    const auto scope = phases_.in("resume");
    const std::int64_t blocks = inputs_.model->config().num_hidden_layers;
    const bool inside = manifest.block < blocks;
    InputWidths widths;
    if (inside) {
      const BlockLayout& layout = inputs_.model->layout(manifest.block);
      const std::int64_t step = layout.step_of(manifest.group);
      widths.quantized = layout.steps.at(static_cast<std::size_t>(step)).width;
      widths.reference = reference_width(run_.recipe(), layout, step);
      widths.summed = layout.group(manifest.group).in_features;
    }
    const bool holds = grid_->holds(manifest.block);
    start_ = restore(run_.checkpoint_directory(), manifest, widths,
                     streams_ && holds ? streams_->to_restore() : StreamsToRestore(),
                     holds ? grid_->place().replica : kHelper, shape_.replicas);
    const auto groups = static_cast<double>(inside ? inputs_.model->layout(manifest.block).groups() : 1);
    part_done_ = 1 - (static_cast<double>(manifest.block) + static_cast<double>(manifest.group) / groups) /
                         static_cast<double>(plan_.blocks);
    if (comm_.is_root()) {
      log::info(
          "resuming from generation {}: block {} of {}, stage group {}, {} chunks of its sum, {} of work by "
          "{} ranks",
          manifest.generation, manifest.block, blocks, manifest.group, start_.sum.done_anywhere.size(),
          duration_text(manifest.seconds), manifest.made_with.at("ranks"));
    }
  }

  void work() {
    Progress progress(job_.log.progress, comm_.is_root(), inputs_.model->config().num_hidden_layers,
                      report_.tokens);
    const GridParts parts{job_,
                          inputs_,
                          compute_,
                          plan_,
                          *grid_,
                          replica_device_ ? *replica_device_ : *compute_.collectives,
                          run_,
                          phases_,
                          progress,
                          positions_,
                          streams_ ? &*streams_ : nullptr,
                          routes_ ? &*routes_ : nullptr};
    const std::optional<QuantizedLayer> head =
        takes_turns(job_) ? StageTurns(parts, std::move(start_), shape_.stages > 1 && stages_help(job_)).run()
                          : StageRounds(parts).run();
    measure_held_out(head ? &*head : nullptr);
    if (routes_) routes_->wait_sent();
  }

  /// Both streams have left the last block, for the stage that the head counts for. A job that is stopped now
  /// measures again.
  void measure_held_out(const QuantizedLayer* head) {
    if (!streams_ || streams_->held_out_reference() == nullptr) return;
    Activations* quantized = &streams_->quantized();
    Activations* reference = streams_->held_out_reference();
    if (!takes_turns(job_)) std::swap(quantized, reference);
    const std::int64_t blocks = inputs_.model->config().num_hidden_layers;
    HeldOutFigures figures;
    if (grid_->holds(blocks)) {
      give_back_freed_memory();  // the heads come instead of what blocks needed
      figures = EndToEnd(*inputs_.model, inputs_.calibration, *compute_.backend, grid_->replicas(),
                         *quantized, *reference, phases_)
                    .measure(head);
    }
    if (shape_.stages > 1) comm_.broadcast(&figures, sizeof(figures), grid_->root_of(blocks));
    report_.held_out = figures;
    if (comm_.is_root() && !figures.is_finite()) {
      log::warn(
          "the perplexity on the held-out samples is not finite: look at the layers' errors in the report, "
          "and with compute.dtype bf16 try fp32");
    }
  }

  void finish() {
    {
      const auto scope = phases_.in("export");
      report_.layers = run_.finish();
    }
    report_.fallbacks = std::count_if(report_.layers.begin(), report_.layers.end(),
                                      [](const LayerStatistics& layer) { return layer.fallback; });
    report_.attempts = run_.attempts();
    report_.attempt_seconds = watch_.seconds();
    report_.seconds = run_.seconds_before() + report_.attempt_seconds;
    report_.matrix_rate = rates_.compute;
    report_.phases = phase_figures(phases_.seconds(), plan_, rates_, part_done_);
    add_ranks(report_.attempt_seconds, comm_.waited_seconds() - waited_before_, comm_, report_);
    add_memory(plan_, *compute_.backend, report_.attempt_seconds >= job_.checkpoint.interval, comm_, report_);
    run_on_root(comm_, [&] {
      report_.source_bytes = safetensors_bytes(job_.model.path);
      report_.output_bytes = safetensors_bytes(job_.output.path);
      write_report(report_, job_.output.path);
      for (const std::string& line : phase_table(report_)) log::info("{}", line);
      for (const std::string& line : comparison_table(report_)) log::info("{}", line);
      if (report_.held_out) log::info("held-out: {}", held_out_text(*report_.held_out));
    });
    write_timeline();
  }

  void write_timeline() {
    if (!options_.trace.empty()) write_trace(options_.trace, trace_, clock_ahead_, comm_);
  }

  const JobConfig& job_;
  QuantizeOptions options_;
  Communicator& comm_;
  JobInputs inputs_;
  ComputeContext compute_;
  GridShape shape_;
  JobRun run_;
  Trace trace_;
  PhaseClock phases_;
  double waited_before_;    ///< seconds, for what came before the job
  double clock_ahead_ = 0;  ///< of the root's
  Plan plan_;
  MatrixRates rates_;
  std::optional<ProcessGrid> grid_;
  std::unique_ptr<DeviceCollectives> replica_device_;  ///< of this rank's stage; null: all ranks are one
  std::optional<JobStreams> streams_;                  ///< none for round-to-nearest
  std::optional<StreamRoutes> routes_;
  DevicePositions positions_;
  double part_done_ = 1;  ///< of the job's blocks, by this attempt
  BlockStart start_;      ///< what an earlier attempt left of the first block
  Report report_;
  Stopwatch watch_;
};

}  // namespace

Report run_quantize(const JobConfig& job, const QuantizeOptions& options, Communicator& comm) {
  run_on_root(comm, [&] { checked_grid(job, comm.size()); });
  JobInputs inputs = open_inputs(job, comm);
  ComputeContext compute = make_compute(job, comm);
  return QuantizeJob(job, options, comm, std::move(inputs), std::move(compute)).run();
}

}  // namespace gptq
