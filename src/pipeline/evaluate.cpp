#include "pipeline/evaluate.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "io/calibration.h"
#include "model/decoder_block.h"
#include "model/safetensors_reader.h"
#include "pipeline/block_prefetcher.h"
#include "pipeline/embedding.h"
#include "pipeline/gather.h"
#include "pipeline/job_context.h"
#include "pipeline/phase_clock.h"
#include "pipeline/plan.h"
#include "pipeline/window_losses.h"

namespace gptq {
namespace {

constexpr std::int64_t kChunkTokens = 2048;

class Evaluator {
 public:
  Evaluator(const ModelWeights& model, const CalibrationData& data, Communicator& comm,
            ComputeContext& compute, Activations::Room room, PhaseClock& phases)
      : model_(model),
        data_(data),
        comm_(comm),
        backend_(*compute.backend),
        dtype_(compute.dtype),
        room_(std::move(room)),
        phases_(phases) {
    std::vector<std::int64_t> lengths;
    for (const auto& sample : data.samples) lengths.push_back(static_cast<std::int64_t>(sample.size()));
    const std::vector<Chunk> chunks = make_chunks(lengths, kChunkTokens);
    const auto [first, last] = chunks_of_rank(chunks, comm.rank(), comm.size());
    mine_.assign(chunks.begin() + static_cast<std::ptrdiff_t>(first),
                 chunks.begin() + static_cast<std::ptrdiff_t>(last));
  }

  std::vector<WindowLoss> run() {
    Activations activations(backend_, data_, mine_, model_.config().hidden_size, 0, dtype_, room_);
    {
      const auto scope = phases_.in("embed");
      embed_samples(backend_, model_, data_, activations);
    }
    const DevicePositions positions(backend_, model_.config(), data_.longest());
    const std::int64_t blocks = model_.config().num_hidden_layers;
    std::vector<std::int64_t> all(static_cast<std::size_t>(blocks));
    std::iota(all.begin(), all.end(), std::int64_t{0});
    BlockPrefetcher prefetcher(backend_, model_, all, [&](const BlockWeights& weights) {
      return std::make_unique<DecoderBlock>(backend_, model_, weights, positions, dtype_);
    });
    for (std::int64_t index = 0; index < blocks; ++index) {
      const PreparedBlock present = next_block(prefetcher);
      const auto scope = phases_.in("forward");
      Activations::Use use;
      use.hidden = Activations::Use::updated;
      activations.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix&) {
        present.block->forward(activations.batch(i), hidden);
      });
    }
    return gather_in_order(losses_of_head(activations), comm_);
  }

 private:
  PreparedBlock next_block(BlockPrefetcher& prefetcher) {
    const auto scope = phases_.in("load");
    return prefetcher.take();
  }

  std::vector<WindowLoss> losses_of_head(Activations& activations) {
    const auto scope = phases_.in("loss");
    const LossHead head(model_, backend_, dtype_);
    std::vector<WindowLoss> windows;
    Activations::Use use;
    use.hidden = Activations::Use::read;
    activations.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix&) {
      const auto losses = head.losses(activations.batch(i), hidden, activations.ids(i, data_));
      windows.insert(windows.end(), losses.begin(), losses.end());
    });
    return windows;
  }

  const ModelWeights& model_;
  const CalibrationData& data_;
  Communicator& comm_;
  Backend& backend_;
  DType dtype_;
  Activations::Room room_;
  PhaseClock& phases_;
  std::vector<Chunk> mine_;
};

std::vector<WindowLoss> losses_of_windows(const ModelWeights& model, const CalibrationData& data,
                                          Communicator& comm, ComputeContext& compute,
                                          const Activations::Room& room) {
  PhaseClock phases(*compute.backend);
  try {
    return Evaluator(model, data, comm, compute, room, phases).run();
  } catch (const DeviceError& error) {
    throw DeviceError("{}, {}, phase {}: {}", host_name(), compute.backend->describe(), phases.last(),
                      error.what());
  }
}

Evaluation evaluate_file(const JobConfig& job, const std::string& path, const ModelWeights& model,
                         Communicator& comm, ComputeContext& compute) {
  Stopwatch watch;
  CalibrationData data;
  const auto read = [&] {
    data = read_calibration(path, {.limit = job.eval.num_samples}, model.config().vocab_size);
    check_tokenizer(data, model.files().directory());
  };
  run_on_root(comm, read);
  if (!comm.is_root()) read();

  Evaluation result;
  const Activations::Room room = evaluation_room(job, *compute.backend, model, data, comm.size());
  const std::vector<WindowLoss> windows = losses_of_windows(model, data, comm, compute, room);
  result.tokens = predictions_of(windows);
  if (result.tokens == 0) {
    throw InputError(
        "{} has no window of two tokens or more: nothing to predict; prepare it with a larger --seqlen",
        path);
  }
  result.perplexity = perplexity_of(windows);
  if (!std::isfinite(result.perplexity)) {
    throw NumericalError("the perplexity of {} on {} is not finite; try compute.dtype fp32", job.eval.model,
                         path);
  }
  result.data = path;
  result.seconds = watch.seconds();
  std::vector<std::int64_t> memory{peak_memory_bytes()};
  comm.all_reduce_sum(memory);
  result.peak_memory_bytes = memory[0];
  return result;
}

}  // namespace

std::vector<Evaluation> run_evaluate(const JobConfig& job, Communicator& comm) {
  const std::string path = job.eval.model.empty() ? job.output.path : job.eval.model;
  std::unique_ptr<ModelWeights> model;
  const auto open = [&] {
    model = std::make_unique<ModelWeights>(path);
    model->check();
  };
  run_on_root(comm, open);
  if (!comm.is_root()) open();

  ComputeContext compute = make_compute(job, comm);
  std::vector<Evaluation> results;
  for (const std::string& data : job.eval.data) {
    results.push_back(evaluate_file(job, data, *model, comm, compute));
    results.back().model = path;
    if (comm.is_root()) {
      log::info("{} on {}: perplexity {:.4f} over {} tokens in {:.1f} s", path, data,
                results.back().perplexity, results.back().tokens, results.back().seconds);
    }
  }
  return results;
}

std::string to_json(const std::vector<Evaluation>& evaluations) {
  nlohmann::json list = nlohmann::json::array();
  for (const Evaluation& result : evaluations) {
    list.push_back({{"model", result.model},
                    {"data", result.data},
                    {"perplexity", result.perplexity},
                    {"tokens", result.tokens},
                    {"seconds", result.seconds},
                    {"peak_memory_bytes", result.peak_memory_bytes}});
  }
  return (list.size() == 1 ? list[0] : list).dump(2) + "\n";
}

}  // namespace gptq
