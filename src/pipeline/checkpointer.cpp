#include "pipeline/checkpointer.h"

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/stop_request.h"
#include "config/version.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

/// Grows, never shrinks: the next checkpoint has about the same size.
std::byte* room_for(HostBuffer& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) {
    buffer = HostBuffer();
    buffer = HostBuffer(bytes);
  }
  return buffer.data();
}

/// What a rank tells the root of its file.
nlohmann::json outcome(std::future<WrittenFile>& writing, const RankState& state) {
  try {
    const WrittenFile file = writing.get();
    return {{"rank", state.rank},
            {"bytes", file.bytes},
            {"sha256", file.sha256},
            {"first_sample", state.samples.empty() ? 0 : state.samples.front()},
            {"end_sample", state.samples.empty() ? 0 : state.samples.back() + 1},
            {"chunks", state.chunks_summed}};
  } catch (const std::exception& error) {
    return {{"rank", state.rank}, {"error", error.what()}};
  }
}

}  // namespace

/// The state as it was at the safe point, while the job changes its own.
struct Checkpointer::Snapshot {
  HostBuffer hidden, x;
  HostBuffer hidden_before;
  HostBuffer reference_hidden, reference_x;
  HostBuffer held_out;
  std::vector<std::int64_t> panels;
  std::vector<std::int64_t> cross;
  std::vector<QuantizedLayer> layers;
  RankState state;
  bool has_file = false;  ///< this rank has something to keep
  std::vector<LayerStatistics> statistics;
  double seconds = 0;

  void take(const SafePoint& point, Backend& backend, bool is_root);

 private:
  void take_sums(const SafePoint& point, Backend& backend);
  void take_samples(const Activations& activations);
  void take_activations(const SafePoint& point);
};

namespace {

void take_hidden(const Activations& activations, HostBuffer& room, Matrix& hidden) {
  const std::int64_t rows = activations.tokens();
  const std::int64_t width = activations.hidden_size();
  hidden = {room_for(room, static_cast<std::size_t>(rows * width) * sizeof(float)), DType::f32, rows, width,
            width};
  activations.read_hidden(hidden.data);
}

/// Copies of a stream's state, with room for them that is kept.
void take_stream(const Activations& activations, std::int64_t x_width, HostBuffer& hidden_room,
                 HostBuffer& x_room, Matrix& hidden, Matrix& x) {
  take_hidden(activations, hidden_room, hidden);
  if (x_width == 0) return;
  const std::int64_t rows = activations.tokens();
  const DType type = activations.compute();
  x = {room_for(x_room, static_cast<std::size_t>(rows * x_width) * size_of(type)), type, rows, x_width,
       x_width};
  activations.read_x(x_width, x.data);
}

}  // namespace

void Checkpointer::Snapshot::take(const SafePoint& point, Backend& backend, bool is_root) {
  state.block = point.block;
  state.group = point.group;
  state.samples.clear();
  state.lengths.clear();
  state.hidden = state.x = state.hidden_before = state.reference_hidden = state.reference_x = Matrix{};
  state.held_out_hidden = Matrix{};
  take_sums(point, backend);
  layers.clear();
  if (is_root && point.finished != nullptr) layers = point.finished->layers;
  state.layers = is_root ? &layers : nullptr;
  if (point.activations != nullptr) take_activations(point);
  has_file = point.activations != nullptr && (is_root || !state.samples.empty() || !panels.empty());
}

void Checkpointer::Snapshot::take_sums(const SafePoint& point, Backend& backend) {
  const auto take = [&](const std::int64_t* from, std::size_t count, std::vector<std::int64_t>& to) {
    to.resize(count);
    if (count > 0) backend.download(to.data(), from, count * sizeof(std::int64_t));
  };
  const bool summed = point.sums != nullptr && !point.chunks.empty();  // else only zeros
  take(summed ? point.sums->hessian.values() : nullptr, summed ? point.sums->hessian.count() : 0, panels);
  take(summed ? point.sums->cross.values() : nullptr, summed ? point.sums->cross.count() : 0, cross);
  state.sum = panels;
  state.cross = cross;
  state.chunks_summed = point.chunks;
}

void Checkpointer::Snapshot::take_samples(const Activations& activations) {
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    const Batch& batch = activations.batch(i);
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      state.samples.push_back(activations.chunk(i).first_sample + s);
      state.lengths.push_back(batch.offsets[static_cast<std::size_t>(s) + 1] -
                              batch.offsets[static_cast<std::size_t>(s)]);
    }
  }
}

void Checkpointer::Snapshot::take_activations(const SafePoint& point) {
  const Activations& activations = *point.activations;
  take_samples(activations);
  take_stream(activations, point.x_width, hidden, x, state.hidden, state.x);
  if (point.reference != nullptr) {
    take_stream(*point.reference, point.reference_x_width, reference_hidden, reference_x,
                state.reference_hidden, state.reference_x);
  }
  if (point.held_out != nullptr) take_hidden(*point.held_out, held_out, state.held_out_hidden);
  if (point.hidden_before != nullptr) {
    const std::int64_t rows = activations.tokens();
    const std::int64_t width = activations.hidden_size();
    const std::size_t bytes = static_cast<std::size_t>(rows * width) * sizeof(float);
    state.hidden_before = {room_for(hidden_before, bytes), DType::f32, rows, width, width};
    point.hidden_before->read(0, state.hidden_before.data, bytes);
  }
}

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

void Checkpointer::at_safe_point(const SafePoint& point, const std::vector<LayerStatistics>& layers) {
  const auto scope = phases_.in("checkpoint");
  std::array<std::int64_t, 3> flags{due() ? 1 : 0, still_writing() ? 1 : 0, stop_requested()};
  comm_.all_reduce_max(flags);
  const auto [due_now, writing, signal] = flags;
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
  snapshot.take(point, backend_, comm_.is_root());
  snapshot.state.generation = next_generation_++;
  snapshot.state.rank = comm_.rank();
  snapshot.statistics = layers;
  if (point.finished != nullptr) {
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

void Checkpointer::commit() {
  pending_ = false;
  std::string mine;
  if (snapshot_->has_file) mine = outcome(writing_, snapshot_->state).dump();
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
  manifest.layers = snapshot.statistics;
  std::uint64_t bytes = 0;
  for (const auto& text : outcomes) {
    if (text.empty()) continue;
    const auto* first = reinterpret_cast<const char*>(text.data());
    const nlohmann::json file = nlohmann::json::parse(first, first + text.size());
    if (file.contains("error")) {
      throw IoError("rank {}: {}", file.at("rank").get<int>(), file.at("error").get<std::string>());
    }
    manifest.files.push_back({checkpoint_file_name(manifest.generation, file.at("rank")), file.at("bytes"),
                              file.at("sha256"), file.at("first_sample"), file.at("end_sample"),
                              file.at("chunks")});
    bytes += manifest.files.back().bytes;
  }
  manifest.block_sha256 = at_commit_.finished_blocks(manifest.block);
  directory_.commit(manifest);
  log::info(
      "checkpoint generation {}: block {}, stage group {}, {} in {} file(s), {:.2f} s after its snapshot",
      manifest.generation, manifest.block, manifest.group, bytes_text(static_cast<std::int64_t>(bytes)),
      manifest.files.size(), since_begin_.seconds());
}

void Checkpointer::remove() {
  if (pending_) commit();
  run_on_root(comm_, [&] { directory_.remove_all(); });
}

}  // namespace gptq
