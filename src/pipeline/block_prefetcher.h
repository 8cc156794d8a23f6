#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "base/trace.h"
#include "model/decoder_block.h"

namespace gptq {

/// A block as read, and ready to compute.
struct PreparedBlock {
  BlockWeights weights;
  std::unique_ptr<DecoderBlock> block;  ///< null where nothing is propagated (round-to-nearest)
};

/// Reads the next of some blocks from disk while the present one is computed, and on a device of its own
/// memory also brings it there: at most two blocks are in memory.
class BlockPrefetcher {
 public:
  using Prepare = std::function<std::unique_ptr<DecoderBlock>(const BlockWeights&)>;

  /// prepare: makes the block ready; called beside the computation where the backend allows it. Empty: not at
  /// all. trace: told of every block; null: none is made.
  BlockPrefetcher(const Backend& backend, const ModelWeights& model, std::vector<std::int64_t> blocks,
                  Prepare prepare, Trace* trace = nullptr)
      : model_(model),
        prepare_(std::move(prepare)),
        prepares_beside_(!backend.shares_host_memory()),
        blocks_(std::move(blocks)),
        trace_(trace) {
    start();
  }

  /// The next of the blocks; waits if it is not there yet.
  PreparedBlock take() {
    PreparedBlock taken = pending_.get();
    start();
    if (prepare_ && !taken.block) taken.block = prepare_(taken.weights);
    return taken;
  }

 private:
  void start() {
    if (next_ == blocks_.size()) return;
    pending_ = std::async(std::launch::async, [this, block = blocks_[next_]] {
      const TraceScope scope(trace_, "read", block, TraceLane::reading);
      PreparedBlock prepared;
      prepared.weights = model_.load_block(block);
      if (prepare_ && prepares_beside_) prepared.block = prepare_(prepared.weights);
      return prepared;
    });
    ++next_;
  }

  const ModelWeights& model_;
  Prepare prepare_;
  bool prepares_beside_;  ///< the CPU's threads are busy with the present block
  std::vector<std::int64_t> blocks_;
  Trace* trace_;
  std::size_t next_ = 0;
  std::future<PreparedBlock> pending_;
};

}  // namespace gptq
