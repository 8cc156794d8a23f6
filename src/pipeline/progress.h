#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// What a person sees while the job runs: a bar on a terminal, plain lines in a batch log, nothing on other
/// ranks.
class Progress {
 public:
  /// style: auto | bar | lines | none. tokens: those that pass each block.
  Progress(const std::string& style, bool is_root, std::int64_t blocks, std::int64_t tokens);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void layers_done(std::int64_t block, const std::vector<LayerStatistics>& layers);
  void block_done(std::int64_t block);

 private:
  enum class Style { none, bar, lines };
  void draw(std::int64_t block, double fraction);
  double eta_seconds(double fraction) const;

  Style style_ = Style::none;
  std::int64_t blocks_;
  std::int64_t tokens_;
  std::int64_t first_block_ = -1;
  std::int64_t layers_in_block_ = 0;
  double block_loss_ = 0;
  double worst_error_ = 0;
  std::string worst_layer_;
  std::string last_layer_;
  double last_loss_ = 0;
  bool drawn_ = false;
  Stopwatch watch_;
};

std::string duration_text(double seconds);   ///< "1 h 02 min", "3 min 20 s", "12.3 s"
std::string bytes_text(std::int64_t bytes);  ///< "1.3 GB"

}  // namespace gptq
