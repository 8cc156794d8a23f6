#pragma once

#include <cstdint>
#include <exception>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/trace.h"
#include "io/exporter.h"
#include "io/finished_blocks.h"

namespace gptq {

/// Packs, writes and syncs finished blocks on a thread of its own while the next block is computed. One block
/// at a time, so memory stays bounded; an error of the writer appears at the next call, and at every one
/// after.
class BackgroundExport {
 public:
  /// stages: so many ranks write in turn, each the blocks of its stage; the next one here is `first`. trace:
  /// told of every block; null: none is made.
  BackgroundExport(std::unique_ptr<Exporter> exporter, std::int64_t first, int stages, Trace* trace = nullptr)
      : exporter_(std::move(exporter)), next_(first), stages_(stages), trace_(trace) {
    for (const std::string& hash : exporter_->block_sha256())
      sha256_.emplace(static_cast<std::int64_t>(sha256_.size()), hash);
  }
  /// All blocks, from the first one after those that the exporter went on from.
  explicit BackgroundExport(std::unique_ptr<Exporter> exporter)
      : BackgroundExport(std::move(exporter), 0, 1) {
    next_ = static_cast<std::int64_t>(sha256_.size());
  }

  /// In their order.
  void write_block(std::int64_t block, BlockWeights weights, std::vector<QuantizedLayer> layers) {
    wait();
    GPTQ_EXPECT(block == next_);
    next_ += stages_;
    pending_block_ = block;
    pending_ =
        std::async(std::launch::async, [this, block, weights = std::move(weights), layers = std::move(layers),
                                        elsewhere = std::exchange(elsewhere_, {})] {
          const TraceScope scope(trace_, "write", block, TraceLane::writing);
          tell(elsewhere);
          std::string sha256 = exporter_->write_block(block, weights, layers);
          exporter_->sync();
          return sha256;
        });
  }
  /// After the last block; at once.
  void write_head(const QuantizedLayer& head) {
    wait();
    exporter_->write_head(head);
    exporter_->sync();
  }
  /// Waits until those of the blocks 0 … `block` - 1 that are written here are on disk; returns their hashes,
  /// and those of all blocks that the exporter went on from. A later block may still be under way and is not
  /// waited for.
  BlockHashes finish_up_to(std::int64_t block) {
    GPTQ_EXPECT(block >= 0);
    if (pending_block_ < block || error_ != nullptr) wait();
    GPTQ_EXPECT(next_ >= block);
    return {sha256_.begin(), sha256_.lower_bound(block)};
  }
  /// On the rank that owns the output: what others have written, of which it may know some.
  void take(const BlockHashes& elsewhere) {
    for (const auto& [block, hash] : elsewhere) {
      if (block != pending_block_ && sha256_.emplace(block, hash).second) elsewhere_.emplace(block, hash);
    }
  }
  /// A checkpoint counts on the files from now on, also when the job fails.
  void keep_partial_files() { exporter_->keep_partial_files(); }
  /// Where this rank owns the output. head_elsewhere: a rank that joined has written the head.
  void finish(bool head_elsewhere = false) {
    wait();
    tell(std::exchange(elsewhere_, {}));
    if (head_elsewhere) exporter_->head_written_elsewhere();
    exporter_->finish();
  }

 private:
  void tell(const BlockHashes& elsewhere) {
    for (const auto& [block, hash] : elsewhere) exporter_->written_elsewhere(block, hash);
  }
  void wait() {
    try {
      if (pending_.valid()) sha256_.emplace(pending_block_, pending_.get());
    } catch (...) {
      error_ = std::current_exception();
    }
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

  std::unique_ptr<Exporter> exporter_;
  std::int64_t next_;
  int stages_;
  Trace* trace_;
  BlockHashes sha256_;  ///< of the blocks that are on disk
  std::int64_t pending_block_ = -1;
  BlockHashes elsewhere_;  ///< which the exporter does not know of yet
  std::exception_ptr error_;
  std::future<std::string> pending_;
};

}  // namespace gptq
