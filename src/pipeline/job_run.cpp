#include "pipeline/job_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "io/finished_blocks.h"
#include "pipeline/job_context.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

std::int64_t fallbacks_of(const std::vector<LayerStatistics>& layers) {
  return std::count_if(layers.begin(), layers.end(),
                       [](const LayerStatistics& layer) { return layer.fallback; });
}

}  // namespace

JobRun::JobRun(const JobConfig& job, const JobInputs& inputs, const ComputeContext& compute,
               Communicator& world)
    : job_(job),
      inputs_(inputs),
      compute_(compute),
      world_(world),
      recipe_(job.quantization),
      identity_(job_identity(job, *inputs.model, inputs.calibration.sha256, compute, world)),
      fingerprint_(fingerprint_of(identity_)) {}

void JobRun::open(bool fresh) {
  directory_.emplace(job_, fresh, world_);
  const bool other_backend = job_.checkpoint.other_backend == "accept";
  const auto damage = [&](const std::vector<std::string>& blocks) {
    return damage_in_finished_blocks(job_, *inputs_.model, recipe_, blocks, {world_.rank(), world_.size()});
  };
  found_ = directory_->find(identity_, other_backend, damage);
  if (!found_.good) return;
  const auto of_finished_blocks = [&](const LayerStatistics& layer) {
    return layer.block < found_.good->block;
  };
  std::vector<LayerStatistics> before;
  std::copy_if(found_.good->layers.begin(), found_.good->layers.end(), std::back_inserter(before),
               of_finished_blocks);
  fallbacks_ = fallbacks_of(before);
  if (world_.is_root()) layers_ = std::move(before);
}

void JobRun::open_output(const ProcessGrid& grid, Trace* trace) {
  grid_ = grid.shape();
  run_on_root(world_, [&] {
    const std::vector<std::string> finished =
        found_.good ? found_.good->block_sha256 : std::vector<std::string>();
    export_.emplace(
        std::make_unique<Exporter>(job_, *inputs_.model, recipe_,
                                   JobMark(fingerprint_, work_fingerprint_of(identity_)), finished),
        first_block(), grid_.stages, trace);
    if (found_.good) export_->keep_partial_files();
  });
  // Ranks that write beside the root join its files when their first block comes.
  if (world_.is_root() || grid.place().replica != 0) return;
  export_.emplace(Exporter::join(job_, *inputs_.model, recipe_), grid.next_own_block(first_block() - 1),
                  grid_.stages, trace);
}

BlockHashes JobRun::written_blocks(std::int64_t block) {
  if (!export_) return {};
  export_->keep_partial_files();
  return export_->finish_up_to(block);
}

void JobRun::start_checkpoints(Backend& backend, PhaseClock& phases) {
  Checkpointer::Job about{identity_,
                          {{"ranks", std::to_string(world_.size())},
                           {"stages", std::to_string(grid_.stages)},
                           {"threads", std::to_string(compute_.backend->threads())},
                           {"host", host_name()},
                           {"model.path", job_.model.path},
                           {"calibration.path", job_.calibration.path}},
                          seconds_before(),
                          attempts()};
  Checkpointer::AtCommit at_commit{[this] { directory_->require_held(); },
                                   [this](std::int64_t block) { return written_blocks(block); },
                                   [this](const BlockHashes& blocks) { export_->take(blocks); }};
  checkpointer_.emplace(job_.checkpoint, directory_->checkpoint(), std::move(about), backend, world_, phases,
                        std::move(at_commit));
  checkpointer_->discard_at_next_commit(found_.damaged);
  if (found_.good && world_.is_root()) {
    log::info("first new work {} after the start of the program; {} of work is repeated",
              duration_text(seconds_since_process_start()),
              duration_text(directory_->lost_seconds(*found_.good)));
  }
}

std::string JobRun::too_many_fallbacks(std::int64_t fallbacks, const std::string& last) const {
  return fmt::format(
      "{} layer(s) fell back to round-to-nearest, the last one {}; fallback.max_layers allows {}. "
      "Use more calibration samples or a larger damp_percent, or raise fallback.max_layers.",
      fallbacks, last, job_.fallback.max_layers);
}

void JobRun::record(const std::vector<LayerStatistics>& rows, Communicator& team) {
  for (const LayerStatistics& row : rows) {
    if (!row.fallback) continue;
    fallbacks_ += 1;
    if (team.is_root()) log::warn("{} fell back to round-to-nearest: {}", row.module, row.fallback_reason);
  }
  if (rows.empty() || fallbacks_ <= job_.fallback.max_layers) return;
  run_on_root(team, [&] { throw NumericalError("{}", too_many_fallbacks(fallbacks_, rows.back().module)); });
}

void JobRun::write_block(std::int64_t block, BlockWeights weights, QuantizedBlock quantized) {
  keep(quantized.statistics);
  export_->write_block(block, std::move(weights), std::move(quantized.layers));
}

void JobRun::write_head(const QuantizedLayer& head, const std::vector<LayerStatistics>& rows) {
  keep(rows);
  export_->write_head(head);
}

std::vector<LayerStatistics> JobRun::finish() {
  const std::int64_t blocks = inputs_.model->config().num_hidden_layers;
  const BlockHashes written = export_ ? export_->finish_up_to(blocks) : BlockHashes();
  const std::string mine = nlohmann::json{{"layers", layers_to_json(layers_)}, {"blocks", written}}.dump();
  const auto everyone = world_.all_gather(std::as_bytes(std::span(mine)));
  std::vector<LayerStatistics> all;
  if (world_.is_root()) {
    for (const auto& text : everyone) {
      const auto* first = reinterpret_cast<const char*>(text.data());
      const nlohmann::json part = nlohmann::json::parse(first, first + text.size());
      const std::vector<LayerStatistics> layers = layers_from_json(part.at("layers"));
      all.insert(all.end(), layers.begin(), layers.end());
      export_->take(part.at("blocks").get<BlockHashes>());
    }
    sort_by_block(all);
  }
  run_on_root(world_, [&] {
    if (const std::int64_t fallbacks = fallbacks_of(all); fallbacks > job_.fallback.max_layers) {
      const auto last =
          std::find_if(all.rbegin(), all.rend(), [](const auto& layer) { return layer.fallback; });
      throw NumericalError("{}", too_many_fallbacks(fallbacks, last->module));
    }
    directory_->require_held();
    const bool head_elsewhere = recipe_.quantizes_head(std::string(inputs_.model->architecture().head)) &&
                                stage_of_block(grid_, first_block(), blocks) != 0;
    export_->finish(head_elsewhere);
  });
  checkpointer_->remove();
  return all;
}

}  // namespace gptq
