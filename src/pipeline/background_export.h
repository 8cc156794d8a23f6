#pragma once

#include <exception>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/exporter.h"

namespace gptq {

/// Packs, writes and syncs finished blocks on a thread of its own while the next block is computed. One block
/// at a time, so memory stays bounded; an error of the writer appears at the next call, and at every one
/// after.
class BackgroundExport {
 public:
  explicit BackgroundExport(std::unique_ptr<Exporter> exporter)
      : exporter_(std::move(exporter)), sha256_(exporter_->block_sha256()) {}

  /// Blocks come in order, the first one after those that the exporter went on from.
  void write_block(std::int64_t block, BlockWeights weights, std::vector<QuantizedLayer> layers) {
    wait();
    GPTQ_EXPECT(block == static_cast<std::int64_t>(sha256_.size()));
    pending_ = std::async(std::launch::async,
                          [this, block, weights = std::move(weights), layers = std::move(layers)] {
                            std::string sha256 = exporter_->write_block(block, weights, layers);
                            exporter_->sync();
                            return sha256;
                          });
  }
  /// After the last block; at once.
  void write_head(const QuantizedLayer& head) {
    wait();
    exporter_->write_head(head);
  }
  /// Waits until blocks 0 … `block` - 1 are on disk; returns their hashes. A later block may still be under
  /// way and is not waited for.
  std::vector<std::string> finish_up_to(std::int64_t block) {
    const auto count = static_cast<std::size_t>(block);
    if (sha256_.size() < count || error_ != nullptr) wait();
    GPTQ_EXPECT(block >= 0 && sha256_.size() >= count);
    return {sha256_.begin(), sha256_.begin() + static_cast<std::ptrdiff_t>(count)};
  }
  /// A checkpoint counts on the files from now on, also when the job fails.
  void keep_partial_files() { exporter_->keep_partial_files(); }
  void finish() {
    wait();
    exporter_->finish();
  }

 private:
  void wait() {
    try {
      if (pending_.valid()) sha256_.push_back(pending_.get());
    } catch (...) {
      error_ = std::current_exception();
    }
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

  std::unique_ptr<Exporter> exporter_;
  std::vector<std::string> sha256_;  ///< of the blocks that are on disk
  std::exception_ptr error_;
  std::future<std::string> pending_;
};

}  // namespace gptq
