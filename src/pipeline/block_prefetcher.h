#pragma once

#include <future>

#include "model/weights.h"

namespace gptq {

/// Reads the next block from disk while the present one is computed: at most two blocks are in memory.
class BlockPrefetcher {
 public:
  BlockPrefetcher(const ModelWeights& model, std::int64_t first_block, std::int64_t end_block)
      : model_(model), next_(first_block), end_(end_block) {
    start();
  }

  /// The next block in order; waits if it is not there yet.
  BlockWeights take() {
    BlockWeights block = pending_.get();
    start();
    return block;
  }

 private:
  void start() {
    if (next_ == end_) return;
    pending_ = std::async(std::launch::async, [this, block = next_] { return model_.load_block(block); });
    ++next_;
  }

  const ModelWeights& model_;
  std::int64_t next_;
  std::int64_t end_;
  std::future<BlockWeights> pending_;
};

}  // namespace gptq
