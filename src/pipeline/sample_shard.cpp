#include "pipeline/sample_shard.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace gptq {

std::int64_t held_out_samples(std::int64_t samples, double part) {
  if (part <= 0 || samples == 0) return 0;
  const auto rounded = static_cast<std::int64_t>(std::llround(part * static_cast<double>(samples)));
  return std::min(std::max<std::int64_t>(rounded, 1), samples - 1);
}

std::vector<Chunk> make_chunks(const std::vector<std::int64_t>& sample_lengths, std::int64_t chunk_tokens,
                               std::int64_t held_out) {
  const auto samples = static_cast<std::int64_t>(sample_lengths.size());
  std::vector<Chunk> chunks;
  for (std::int64_t sample = 0; sample < samples; ++sample) {
    const std::int64_t length = sample_lengths[static_cast<std::size_t>(sample)];
    const bool apart = sample >= samples - held_out;
    if (chunks.empty() || chunks.back().tokens + length > chunk_tokens || chunks.back().held_out != apart) {
      chunks.push_back({static_cast<std::int64_t>(chunks.size()), sample, 0, 0, apart});
    }
    chunks.back().samples += 1;
    chunks.back().tokens += length;
  }
  return chunks;
}

std::pair<std::size_t, std::size_t> chunks_of_rank(const std::vector<Chunk>& chunks, int rank, int ranks) {
  GPTQ_EXPECT(rank >= 0 && rank < ranks);
  std::int64_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.tokens;
  // A chunk belongs to the rank whose share of the token line holds the chunk's middle; comparing doubled and
  // scaled integers keeps that exact.
  const auto owner_is_below = [&](std::int64_t before, const Chunk& chunk, int bound) {
    return (2 * before + chunk.tokens) * ranks < 2 * total * bound;
  };
  std::size_t first = 0;
  std::size_t last = 0;
  std::int64_t before = 0;
  for (const Chunk& chunk : chunks) {
    if (owner_is_below(before, chunk, rank)) ++first;
    if (owner_is_below(before, chunk, rank + 1)) ++last;
    before += chunk.tokens;
  }
  return {first, last};
}

std::int64_t most_chunks_to_sum(const std::vector<Chunk>& chunks, int ranks,
                                const std::vector<std::int64_t>& done) {
  std::int64_t most = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto [first, last] = chunks_of_rank(chunks, rank, ranks);
    most = std::max<std::int64_t>(
        most, std::count_if(chunks.begin() + static_cast<std::ptrdiff_t>(first),
                            chunks.begin() + static_cast<std::ptrdiff_t>(last), [&](const Chunk& chunk) {
                              return !chunk.held_out &&
                                     std::find(done.begin(), done.end(), chunk.index) == done.end();
                            }));
  }
  return most;
}

}  // namespace gptq
