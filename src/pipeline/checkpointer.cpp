#include "pipeline/checkpointer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/stop_request.h"
#include "config/version.h"
#include "io/checkpoint_manifest.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

/// What a rank tells the root of its file.
nlohmann::json file_of(std::future<WrittenFile>& writing, const RankState& state) {
  const WrittenFile file = writing.get();
  return {{"bytes", file.bytes},
          {"sha256", file.sha256},
          {"first_sample", state.samples.empty() ? 0 : state.samples.front()},
          {"end_sample", state.samples.empty() ? 0 : state.samples.back() + 1},
          {"chunks", state.chunks_summed}};
}

}  // namespace

Checkpointer::Checkpointer(const CheckpointSection& options, CheckpointDirectory directory, Job job,
                           Backend& backend, Communicator& comm, PhaseClock& phases, AtCommit at_commit)
    : options_(options),
      job_(std::move(job)),
      backend_(backend),
      comm_(comm),
      phases_(phases),
      at_commit_(std::move(at_commit)),
      directory_(std::move(directory)),
      snapshot_(std::make_unique<Snapshot>()) {
  if (!options_.enabled) return;
  run_on_root(comm_, [&] {
    directory_.create();
    next_generation_ = directory_.next_generation();
  });
  comm_.broadcast(&next_generation_, sizeof(next_generation_), 0);
}

Checkpointer::~Checkpointer() = default;  // the future's destructor waits for the writer

bool Checkpointer::due() const {
  return options_.enabled && comm_.is_root() && since_begin_.seconds() >= options_.interval;
}

bool Checkpointer::still_writing() const {
  return writing_.valid() && writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

std::array<std::int64_t, 3> Checkpointer::flags() const {
  return {due() ? 1 : 0, still_writing() ? 1 : 0, stop_requested()};
}

void Checkpointer::ask() {
  asked_ = flags();
  answer_ = comm_.begin_max(asked_);
}

bool Checkpointer::is_wanted() {
  if (answer_ == nullptr) return false;
  const auto scope = phases_.in("checkpoint");
  answer_->wait();
  answer_.reset();
  const auto [due_then, writing, signal] = asked_;
  return signal != 0 || (pending_ ? writing == 0 : due_then != 0);
}

void Checkpointer::at_safe_point(const SafePoint& point, const std::vector<LayerStatistics>& layers) {
  const auto scope = phases_.in("checkpoint");
  GPTQ_EXPECT(answer_ == nullptr);
  std::array<std::int64_t, 3> everyone = flags();
  comm_.all_reduce_max(everyone);
  const auto [due_now, writing, signal] = everyone;
  if (pending_ && (writing == 0 || signal != 0)) commit();
  if (signal != 0) {
    if (options_.enabled) {
      begin(point, layers);
      commit();
    }
    std::int64_t kept = comm_.is_root() ? committed_ : 0;
    comm_.broadcast(&kept, sizeof(kept), 0);
    throw Stopped(fmt::format(
        "stopped by {} at block {}, stage group {}; {}", signal_name(static_cast<int>(signal)), point.block,
        point.group,
        kept > 0 ? fmt::format("generation {} is kept: run the same command again to go on", kept)
                 : std::string(
                       "no checkpoint was written in this attempt: the next one starts where this one did")));
  }
  if (due_now != 0 && !pending_) {
    begin(point, layers);
    if (options_.interval == 0) commit();
  }
}

void Checkpointer::begin(const SafePoint& point, const std::vector<LayerStatistics>& layers) {
  Snapshot& snapshot = *snapshot_;
  snapshot.take(point, backend_);
  snapshot.state.generation = next_generation_++;
  snapshot.state.rank = comm_.rank();
  snapshot.statistics = layers;
  if (point.keeps_finished && point.finished != nullptr) {
    const auto& present = point.finished->statistics;
    snapshot.statistics.insert(snapshot.statistics.end(), present.begin(), present.end());
  }
  snapshot.seconds = job_.seconds_before + job_watch_.seconds();
  if (snapshot.has_file) {
    const auto path =
        directory_.path() / checkpoint_file_name(snapshot.state.generation, snapshot.state.rank);
    writing_ =
        std::async(std::launch::async, [path, &snapshot] { return write_rank_file(path, snapshot.state); });
  }
  pending_ = true;
  since_begin_ = Stopwatch();
}

/// This rank's part of the generation, or why there is none.
std::string Checkpointer::contribution() {
  const Snapshot& snapshot = *snapshot_;
  nlohmann::json json{{"rank", snapshot.state.rank}, {"layers", layers_to_json(snapshot.statistics)}};
  try {
    if (snapshot.has_file) json["file"] = file_of(writing_, snapshot.state);
    json["blocks"] = at_commit_.written_blocks(snapshot.state.block);
  } catch (const std::exception& error) {
    json["error"] = error.what();
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void Checkpointer::commit() {
  pending_ = false;
  const std::string mine = contribution();
  const auto outcomes = comm_.all_gather(std::as_bytes(std::span(mine)));
  if (!comm_.is_root()) return;
  at_commit_.require_held();
  try {
    commit_on_root(outcomes);
    committed_ = snapshot_->state.generation;
    for (const std::int64_t damaged : std::exchange(damaged_, {})) directory_.discard(damaged);
  } catch (const Error& error) {
    log::warn("checkpoint generation {} could not be written, the one before still counts: {}",
              snapshot_->state.generation, error.what());
  }
  // After a failure too: what other ranks wrote of it would fill the disk further. Those ranks may be ahead
  // and write the next generation already.
  directory_.prune(options_.keep, next_generation_);
}

void Checkpointer::commit_on_root(const std::vector<std::vector<std::byte>>& outcomes) {
  const Snapshot& snapshot = *snapshot_;
  CheckpointManifest manifest;
  manifest.generation = snapshot.state.generation;
  manifest.created_by = "gptq-hpc " + version();
  manifest.written = utc_now();
  manifest.block = snapshot.state.block;
  manifest.group = snapshot.state.group;
  manifest.seconds = snapshot.seconds;
  manifest.attempts = job_.attempts;
  manifest.identity = job_.identity;
  manifest.made_with = job_.made_with;
  BlockHashes blocks;
  std::uint64_t bytes = 0;
  for (const auto& text : outcomes) {
    const auto* first = reinterpret_cast<const char*>(text.data());
    const nlohmann::json part = nlohmann::json::parse(first, first + text.size());
    const int rank = part.at("rank");
    if (part.contains("error")) throw IoError("rank {}: {}", rank, part.at("error").get<std::string>());
    blocks.merge(part.at("blocks").get<BlockHashes>());
    const std::vector<LayerStatistics> layers = layers_from_json(part.at("layers"));
    manifest.layers.insert(manifest.layers.end(), layers.begin(), layers.end());
    if (!part.contains("file")) continue;
    const nlohmann::json& file = part.at("file");
    manifest.files.push_back({checkpoint_file_name(manifest.generation, rank), file.at("bytes"),
                              file.at("sha256"), file.at("first_sample"), file.at("end_sample"),
                              file.at("chunks")});
    bytes += manifest.files.back().bytes;
  }
  sort_by_block(manifest.layers);
  for (const auto& [block, hash] : blocks) {
    GPTQ_EXPECT(block == static_cast<std::int64_t>(manifest.block_sha256.size()));
    manifest.block_sha256.push_back(hash);
  }
  GPTQ_EXPECT(static_cast<std::int64_t>(manifest.block_sha256.size()) == manifest.block);
  at_commit_.take_blocks(blocks);
  directory_.commit(manifest);
  log::info(
      "checkpoint generation {}: block {}, stage group {}, {} in {} file(s), {:.2f} s after its snapshot",
      manifest.generation, manifest.block, manifest.group, bytes_text(static_cast<std::int64_t>(bytes)),
      manifest.files.size(), since_begin_.seconds());
}

void Checkpointer::remove() {
  is_wanted();  // whatever was asked last
  if (pending_) commit();
  run_on_root(comm_, [&] { directory_.remove_all(); });
}

}  // namespace gptq
