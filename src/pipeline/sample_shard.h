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
};

/// Fills chunks greedily up to chunk_tokens; a longer sample is a chunk of its own.
std::vector<Chunk> make_chunks(const std::vector<std::int64_t>& sample_lengths, std::int64_t chunk_tokens);

/// The half-open run of chunks that `rank` holds: contiguous, balanced by tokens, possibly empty.
std::pair<std::size_t, std::size_t> chunks_of_rank(const std::vector<Chunk>& chunks, int rank, int ranks);

}  // namespace gptq
