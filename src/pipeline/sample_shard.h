#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace gptq {

/// Consecutive samples that are multiplied into a Hessian together. Chunks, not ranks, fix the arithmetic:
/// they depend on the calibration data and `calibration.chunk_tokens` alone.
struct Chunk {
  std::int64_t index = 0;  ///< among all chunks of the data
  std::int64_t first_sample = 0;
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  bool held_out = false;  ///< enters no Hessian
};

/// How many of the samples are held out: that part of them, at least one, but never all. The last ones are.
std::int64_t held_out_samples(std::int64_t samples, double part);

/// Fills chunks greedily up to chunk_tokens; a longer sample is a chunk of its own, and none holds both kinds
/// of samples.
std::vector<Chunk> make_chunks(const std::vector<std::int64_t>& sample_lengths, std::int64_t chunk_tokens,
                               std::int64_t held_out = 0);

/// The half-open run of chunks that `rank` holds: contiguous, balanced by tokens, possibly empty.
std::pair<std::size_t, std::size_t> chunks_of_rank(const std::vector<Chunk>& chunks, int rank, int ranks);

/// Of the ranks that share the chunks, how many of them the one with most has still to sum. done: chunks, by
/// index, that are in some sum already.
std::int64_t most_chunks_to_sum(const std::vector<Chunk>& chunks, int ranks,
                                const std::vector<std::int64_t>& done);

}  // namespace gptq
