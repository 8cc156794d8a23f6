#pragma once

#include <future>
#include <memory>
#include <vector>

#include "io/exporter.h"

namespace gptq {

/// Packs and writes finished blocks on a thread of its own while the next block is computed. One block at a
/// time, so memory stays bounded; an error of the writer appears at the next call.
class BackgroundExport {
 public:
  explicit BackgroundExport(std::unique_ptr<Exporter> exporter) : exporter_(std::move(exporter)) {}

  void write_block(std::int64_t block, BlockWeights weights, std::vector<QuantizedLayer> layers) {
    wait();
    pending_ = std::async(std::launch::async,
                          [this, block, weights = std::move(weights), layers = std::move(layers)] {
                            exporter_->write_block(block, weights, layers);
                          });
  }
  void finish() {
    wait();
    exporter_->finish();
  }

 private:
  void wait() {
    if (pending_.valid()) pending_.get();
  }

  std::unique_ptr<Exporter> exporter_;
  std::future<void> pending_;
};

}  // namespace gptq
