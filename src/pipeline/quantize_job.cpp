#include "pipeline/quantize_job.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "io/finished_blocks.h"
#include "io/output_directory.h"
#include "pipeline/background_export.h"
#include "pipeline/block_prefetcher.h"
#include "pipeline/block_quantizer.h"
#include "pipeline/checkpointer.h"
#include "pipeline/end_to_end.h"
#include "pipeline/grid_choice.h"
#include "pipeline/grid_search.h"
#include "pipeline/head_quantizer.h"
#include "pipeline/job_context.h"
#include "pipeline/job_directory.h"
#include "pipeline/job_inputs.h"
#include "pipeline/job_report.h"
#include "pipeline/job_streams.h"
#include "pipeline/plan.h"
#include "pipeline/progress.h"
#include "pipeline/resume.h"

namespace gptq {
namespace {

std::int64_t safetensors_bytes(const std::filesystem::path& directory) {
  std::int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") bytes += static_cast<std::int64_t>(entry.file_size());
  }
  return bytes;
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
        recipe_(job.quantization),
        identity_(job_identity(job, *inputs_.model, inputs_.calibration.sha256, compute_, comm)),
        fingerprint_(fingerprint_of(identity_)),
        phases_(*compute_.backend) {}

  Report run() {
    report_ = new_report(job_, inputs_, compute_, comm_);
    report_.already_finished = already_finished();
    if (report_.already_finished) return report_;
    try {
      prepare();
      quantize_blocks();
      measure_held_out();
      finish();
    } catch (const DeviceError& error) {
      throw DeviceError("{}, {}, phase {}: {}", host_name(), compute_.backend->describe(), phases_.last(),
                        error.what());  // main adds the rank
    }
    return report_;
  }

 private:
  bool already_finished() {
    std::int64_t finished = 0;
    run_on_root(comm_, [&] {
      finished = !job_.output.overwrite && is_finished_output(job_.output.path, fingerprint_) ? 1 : 0;
      if (finished != 0) tidy_finished_output();
    });
    comm_.broadcast(&finished, sizeof(finished), 0);
    return finished != 0;
  }

  /// An attempt that was killed after its last write may have left its marker and checkpoint behind.
  void tidy_finished_output() const {
    const CheckpointDirectory checkpoint(checkpoint_path(job_));
    const std::filesystem::path output = job_.output.path;
    const auto there = [](const std::filesystem::path& path) {
      std::error_code ignored;
      return std::filesystem::exists(path, ignored);
    };
    if (!there(checkpoint.path()) && !there(output / kJobMarker) && !there(output / kLockFile)) return;
    const JobLock lock(job_.output.path);
    checkpoint.remove_all();
    release_output_directory(job_.output.path);
  }

  /// Everything that can refuse the job does so here, before the first token is computed.
  void prepare() {
    make_fitting_plan();
    {
      const auto scope = phases_.in("measure");
      rates_ = measure_rates(compute_);
    }
    directory_.emplace(job_, options_.fresh, comm_);
    const bool other_backend = job_.checkpoint.other_backend == "accept";
    const auto damage = [&](const std::vector<std::string>& blocks) {
      return damage_in_finished_blocks(job_, *inputs_.model, recipe_, blocks, {comm_.rank(), comm_.size()});
    };
    const FoundCheckpoint found = directory_->find(identity_, other_backend, damage);
    const std::optional<CheckpointManifest>& manifest = found.good;
    run_on_root(comm_, [&] {
      const std::vector<std::string> finished =
          manifest ? manifest->block_sha256 : std::vector<std::string>();
      export_.emplace(std::make_unique<Exporter>(
          job_, *inputs_.model, recipe_, JobMark(fingerprint_, work_fingerprint_of(identity_)), finished));
      if (manifest) export_->keep_partial_files();
    });
    if (uses_calibration()) {
      const Activations::Room room{plan_.activation_place, spill_path(job_)};
      streams_.emplace(inputs_, compute_, plan_, room, comm_.rank());
    }
    if (manifest) {
      take_up(*manifest);
    } else if (streams_) {
      const auto scope = phases_.in("embed");
      streams_->embed();
    }
    if (uses_calibration()) {
      positions_ = {*compute_.backend, inputs_.model->config(), inputs_.calibration.longest()};
    }
    start_checkpoints(found);
  }

  void make_fitting_plan() {
    const PlanRequest request = plan_request(job_, inputs_, compute_, comm_);
    plan_ = make_plan(request);
    run_on_root(comm_, [&] {
      log::info("{} ranks x {} threads, {}, {} arithmetic", comm_.size(), compute_.backend->threads(),
                compute_.backend->describe(), name_of(compute_.dtype));
      require_fit(request, plan_);
      if (!options_.machine.empty()) predict(request);
    });
  }

  /// What this very layout should take on the machine that was described.
  void predict(const PlanRequest& request) {
    Machine machine = read_machine(find_machine(options_.machine));
    // Ranks that are bound to cores have no others for reading and packing either.
    machine.node.cores = std::min(machine.node.cores, available_cores() * request.ranks_on_node);
    GridChoice choice;
    choice.grid = {1, comm_.size()};
    choice.threads = compute_.backend->threads();
    choice.ranks_on_node = request.ranks_on_node;
    require_links(machine, {comm_.size(), request.ranks_on_node});
    if (machine.is_cpu() == request.device.separate) {
      throw UsageError("--machine: {} describes a machine of {}, but this job computes on {}", machine.name,
                       machine.is_cpu() ? "CPUs" : machine.device.kind, compute_.backend->describe());
    }
    const SimulatedJob predicted = simulate(request, plan_, machine, choice);
    report_.predicted = {machine.name + ", " + machine.provenance(), predicted.root};
    log::info("{} predicted by {}", duration_text(predicted.seconds), report_.predicted.machine);
  }

  /// Goes to where an earlier attempt was.
  void take_up(const CheckpointManifest& manifest) {
    const auto scope = phases_.in("resume");
    const bool inside = manifest.block < inputs_.model->config().num_hidden_layers;
    InputWidths widths;
    if (inside) {
      const BlockLayout& layout = inputs_.model->layout(manifest.block);
      const std::int64_t step = layout.step_of(manifest.group);
      widths.quantized = layout.steps.at(static_cast<std::size_t>(step)).width;
      widths.reference = reference_width(recipe_, layout, step);
      widths.summed = layout.group(manifest.group).in_features;
    }
    first_block_ = manifest.block;
    start_ = restore(directory_->checkpoint(), manifest, widths,
                     streams_ ? streams_->to_restore() : StreamsToRestore(), comm_.rank(), comm_.size());
    for (const LayerStatistics& layer : manifest.layers) {
      if (layer.block < manifest.block) report_.layers.push_back(layer);
    }
    report_.fallbacks = std::count_if(report_.layers.begin(), report_.layers.end(),
                                      [](const LayerStatistics& layer) { return layer.fallback; });
    report_.attempts = manifest.attempts + 1;
    seconds_before_ = manifest.seconds;
    const auto groups = static_cast<double>(inside ? inputs_.model->layout(manifest.block).groups() : 1);
    const double blocks_before =
        static_cast<double>(manifest.block) + static_cast<double>(manifest.group) / groups;
    part_done_ = 1 - blocks_before / static_cast<double>(plan_.blocks);
    if (comm_.is_root()) {
      log::info(
          "resuming from generation {}: block {} of {}, stage group {}, {} chunks of its sum, {} of work by "
          "{} ranks",
          manifest.generation, manifest.block, inputs_.model->config().num_hidden_layers, manifest.group,
          start_.sum.done_anywhere.size(), duration_text(manifest.seconds), manifest.made_with.at("ranks"));
    }
  }

  void start_checkpoints(const FoundCheckpoint& found) {
    Checkpointer::Job about{identity_,
                            {{"ranks", std::to_string(comm_.size())},
                             {"threads", std::to_string(compute_.backend->threads())},
                             {"host", host_name()},
                             {"model.path", job_.model.path},
                             {"calibration.path", job_.calibration.path}},
                            seconds_before_,
                            report_.attempts};
    Checkpointer::AtCommit at_commit{[this] { directory_->require_held(); },
                                     [this](std::int64_t block) {
                                       export_->keep_partial_files();
                                       return export_->finish_up_to(block);
                                     }};
    checkpointer_.emplace(job_.checkpoint, directory_->checkpoint(), std::move(about), *compute_.backend,
                          comm_, phases_, std::move(at_commit));
    checkpointer_->discard_at_next_commit(found.damaged);
    if (found.good && comm_.is_root()) {
      log::info("first new work {} after the start of the program; {} of work is repeated",
                duration_text(seconds_since_process_start()),
                duration_text(directory_->lost_seconds(*found.good)));
    }
  }

  bool uses_calibration() const { return job_.quantization.method == "gptq"; }

  void quantize_blocks() {
    const std::int64_t blocks = inputs_.model->config().num_hidden_layers;
    Progress progress(job_.log.progress, comm_.is_root(), blocks, report_.tokens);
    StageSummer summer(*compute_.backend, comm_, *compute_.collectives, inputs_.summed_tokens(),
                       inputs_.model->config().norm_eps, phases_);
    StageSolver solver(*compute_.backend, Team{comm_, *compute_.collectives}, recipe_,
                       inputs_.summed_tokens(), inputs_.summed_samples(), job_.fallback.min_tokens, phases_);
    std::int64_t index = first_block_;
    const BlockQuantizer::Tools tools{
        *inputs_.model,
        recipe_,
        summer,
        solver,
        *compute_.backend,
        comm_,
        phases_,
        inputs_.held_out() > 0,
        [&](const std::vector<LayerStatistics>& rows) { progress.layers_done(index, rows); },
        [&](const SafePoint& point) { checkpointer_->at_safe_point(point, report_.layers); }};
    BlockPrefetcher::Prepare prepare;
    if (uses_calibration()) {
      prepare = [this](const BlockWeights& weights) {
        return std::make_unique<DecoderBlock>(*compute_.backend, *inputs_.model, weights, positions_,
                                              compute_.dtype);
      };
    }
    BlockPrefetcher prefetcher(*compute_.backend, *inputs_.model, first_block_, blocks, prepare);
    for (; index < blocks; ++index) {
      PreparedBlock present = next_block(prefetcher);
      BlockQuantizer quantizer(tools, present.weights);
      QuantizedBlock quantized = present.block ? quantizer.run(*present.block, streams_->in_block(),
                                                               std::exchange(start_, BlockStart()))
                                               : quantizer.round_to_nearest();
      record(quantized.statistics);
      if (export_) {
        const auto scope = phases_.in("export");
        export_->write_block(index, std::move(present.weights), std::move(quantized.layers));
      }
      progress.block_done(index);
      SafePoint between;
      between.block = index + 1;
      if (streams_) streams_->add_to(between);
      checkpointer_->at_safe_point(between, report_.layers);
    }
    if (recipe_.quantizes_head(std::string(inputs_.model->architecture().head))) quantize_head(tools);
  }

  void quantize_head(const BlockQuantizer::Tools& tools) {
    SolvedStage solved =
        HeadQuantizer(tools, compute_.dtype)
            .run(streams_ ? &streams_->quantized() : nullptr, streams_ ? streams_->reference() : nullptr);
    record(solved.statistics);
    head_ = std::move(solved.layers.front());
    if (export_) export_->write_head(*head_);
  }

  /// Both streams have left the last block. A job that is stopped now measures again.
  void measure_held_out() {
    Activations* const reference = streams_ ? streams_->held_out_reference() : nullptr;
    if (reference == nullptr) return;
    give_back_freed_memory();  // the heads come instead of what blocks needed
    report_.held_out = EndToEnd(*inputs_.model, inputs_.calibration, *compute_.backend, comm_,
                                streams_->quantized(), *reference, phases_)
                           .measure(head_ ? &*head_ : nullptr);
    if (comm_.is_root() && !report_.held_out->is_finite()) {
      log::warn(
          "the perplexity on the held-out samples is not finite: look at the layers' errors in the report, "
          "and "
          "with compute.dtype bf16 try fp32");
    }
  }

  PreparedBlock next_block(BlockPrefetcher& prefetcher) {
    const auto scope = phases_.in("load");
    return prefetcher.take();
  }

  void record(const std::vector<LayerStatistics>& rows) {
    for (const LayerStatistics& row : rows) {
      report_.layers.push_back(row);
      if (!row.fallback) continue;
      report_.fallbacks += 1;
      if (comm_.is_root()) log::warn("{} fell back to round-to-nearest: {}", row.module, row.fallback_reason);
    }
    if (report_.fallbacks > job_.fallback.max_layers) {
      throw CollectiveError(
          ExitCode::numerical,
          fmt::format("{} layer(s) fell back to round-to-nearest, the last one {}; "
                      "fallback.max_layers allows {}. "
                      "Use more calibration samples or a larger damp_percent, or raise fallback.max_layers.",
                      report_.fallbacks, rows.back().module, job_.fallback.max_layers));
    }
  }

  void finish() {
    {
      const auto scope = phases_.in("export");
      run_on_root(comm_, [&] {
        directory_->require_held();
        export_->finish();
      });
    }
    checkpointer_->remove();
    report_.attempt_seconds = watch_.seconds();
    report_.seconds = seconds_before_ + report_.attempt_seconds;
    report_.matrix_rate = rates_.compute;
    report_.phases = phase_figures(phases_.seconds(), plan_, rates_, part_done_);
    add_memory(plan_, *compute_.backend, report_.attempt_seconds >= job_.checkpoint.interval, comm_, report_);
    run_on_root(comm_, [&] {
      report_.source_bytes = safetensors_bytes(job_.model.path);
      report_.output_bytes = safetensors_bytes(job_.output.path);
      write_report(report_, job_.output.path);
      for (const std::string& line : phase_table(report_)) log::info("{}", line);
      for (const std::string& line : comparison_table(report_)) log::info("{}", line);
      if (report_.held_out) log::info("held-out: {}", held_out_text(*report_.held_out));
    });
  }

  const JobConfig& job_;
  QuantizeOptions options_;
  Communicator& comm_;
  JobInputs inputs_;
  ComputeContext compute_;
  Recipe recipe_;
  std::map<std::string, std::string> identity_;
  std::string fingerprint_;
  PhaseClock phases_;
  std::optional<JobDirectory> directory_;
  std::optional<BackgroundExport> export_;  ///< on the root
  std::optional<JobStreams> streams_;       ///< none for round-to-nearest
  std::optional<QuantizedLayer> head_;      ///< where it is quantized
  DevicePositions positions_;
  Plan plan_;
  MatrixRates rates_;
  double part_done_ = 1;  ///< of the job's blocks, by this attempt
  std::int64_t first_block_ = 0;
  BlockStart start_;           ///< what an earlier attempt left of first_block_
  double seconds_before_ = 0;  ///< work of earlier attempts
  std::optional<Checkpointer> checkpointer_;
  Report report_;
  Stopwatch watch_;
};

}  // namespace

Report run_quantize(const JobConfig& job, const QuantizeOptions& options, Communicator& comm) {
  run_on_root(comm, [&] { require_one_stage(grid_of(job.parallel, comm.size())); });
  JobInputs inputs = open_inputs(job, comm);
  ComputeContext compute = make_compute(job, comm);
  return QuantizeJob(job, options, comm, std::move(inputs), std::move(compute)).run();
}

}  // namespace gptq
