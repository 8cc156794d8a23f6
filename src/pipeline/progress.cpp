#include "pipeline/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "base/process.h"

namespace gptq {

std::string duration_text(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string bytes_text(std::int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (value >= 1e12) return fmt::format("{:.2f} TB", value / 1e12);
  if (value >= 1e9) return fmt::format("{:.2f} GB", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.1f} kB", value / 1e3);
}

Progress::Progress(const std::string& style, bool is_root, std::int64_t blocks, std::int64_t tokens)
    : blocks_(blocks), tokens_(tokens) {
  if (!is_root || style == "none") return;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  style_ = style == "bar" || (style == "auto" && terminal) ? Style::bar : Style::lines;
}

Progress::~Progress() {
  if (drawn_) std::fputc('\n', stderr);
}

double Progress::eta_seconds(double fraction) const {
  const double done =
      fraction - static_cast<double>(std::max<std::int64_t>(first_block_, 0)) / static_cast<double>(blocks_);
  return done > 0 ? watch_.seconds() * (1 - fraction) / done : 0;
}

void Progress::layers_done(std::int64_t block, const std::vector<LayerStatistics>& layers) {
  if (style_ == Style::none) return;
  if (first_block_ < 0) first_block_ = block;
  for (const LayerStatistics& layer : layers) {
    block_loss_ += layer.loss;
    last_layer_ = layer.module;
    last_loss_ = layer.loss;
    if (layer.relative_output_error >= worst_error_) {
      worst_error_ = layer.relative_output_error;
      worst_layer_ = layer.module;
    }
    log::debug("{}: loss {:.4g}, relative output error {:.3g}, damping {:.3g}", layer.module, layer.loss,
               layer.relative_output_error, layer.damp_percent);
  }
  layers_in_block_ += static_cast<std::int64_t>(layers.size());
  // A block of a dense decoder has seven layers; the bar only needs to move, so being off by one is harmless.
  const double part = std::min(1.0, static_cast<double>(layers_in_block_) / 7.0);
  if (style_ == Style::bar) draw(block, (static_cast<double>(block) + part) / static_cast<double>(blocks_));
}

void Progress::draw(std::int64_t block, double fraction) {
  constexpr int kWidth = 24;
  const int filled = static_cast<int>(fraction * kWidth);
  std::string bar(static_cast<std::size_t>(filled), '#');
  bar.resize(kWidth, '.');
  const double blocks_done =
      fraction * static_cast<double>(blocks_) - static_cast<double>(std::max<std::int64_t>(first_block_, 0));
  const double rate = static_cast<double>(tokens_) * blocks_done / std::max(watch_.seconds(), 1e-9);
  const std::string line =
      fmt::format("[{}] {:3.0f} %  block {}/{}  {}  loss {:.3g}  {:.0f} tok/s per block  {}  ETA {}", bar,
                  100 * fraction, std::min(block + 1, blocks_), blocks_, last_layer_, last_loss_, rate,
                  bytes_text(current_memory_bytes()), duration_text(eta_seconds(fraction)));
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::block_done(std::int64_t block) {
  if (style_ == Style::none) return;
  if (first_block_ < 0) first_block_ = block;
  const double fraction = static_cast<double>(block + 1) / static_cast<double>(blocks_);
  if (style_ == Style::bar) {
    draw(block, fraction);
  } else {
    const double rate =
        static_cast<double>(tokens_ * (block + 1 - first_block_)) / std::max(watch_.seconds(), 1e-9);
    log::info(
        "block {}/{}: loss {:.4g}, worst output error {:.3g} ({}), {:.0f} tok/s per block, {} in memory, ETA "
        "{}",
        block + 1, blocks_, block_loss_, worst_error_, worst_layer_, rate, bytes_text(current_memory_bytes()),
        duration_text(eta_seconds(fraction)));
  }
  layers_in_block_ = 0;
  block_loss_ = 0;
  worst_error_ = 0;
}

}  // namespace gptq
