#include "pipeline/sample_shard.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace gptq {
namespace {

TEST(MakeChunks, FillsUpToTheLimitAndNeverSplitsASample) {
  const std::vector<Chunk> chunks = make_chunks({100, 100, 100, 900, 5, 5}, 250);
  ASSERT_EQ(chunks.size(), 4u);
  EXPECT_EQ(chunks[0].samples, 2);
  EXPECT_EQ(chunks[0].tokens, 200);
  EXPECT_EQ(chunks[1].first_sample, 2);
  EXPECT_EQ(chunks[1].samples, 1);
  EXPECT_EQ(chunks[2].first_sample, 3);
  EXPECT_EQ(chunks[2].tokens, 900);
  EXPECT_EQ(chunks[3].samples, 2);
}

TEST(MakeChunks, NoSamplesNoChunks) {
  EXPECT_TRUE(make_chunks({}, 100).empty());
}

TEST(HeldOutSamples, AtLeastOneButNeverAll) {
  EXPECT_EQ(held_out_samples(128, 0.05), 6);
  EXPECT_EQ(held_out_samples(8, 0.25), 2);
  EXPECT_EQ(held_out_samples(8, 0.01), 1);
  EXPECT_EQ(held_out_samples(2, 0.5), 1);
  EXPECT_EQ(held_out_samples(1, 0.5), 0);
  EXPECT_EQ(held_out_samples(8, 0), 0);
  EXPECT_EQ(held_out_samples(0, 0.25), 0) << "round-to-nearest has no samples";
}

TEST(ChunksOfRank, CoverEveryChunkOnceInOrderForAnyRankCount) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<std::int64_t> lengths(random() % 40);
    for (std::int64_t& length : lengths) length = 1 + static_cast<std::int64_t>(random() % 500);
    const std::vector<Chunk> chunks = make_chunks(lengths, 600);
    for (int ranks = 1; ranks <= 9; ++ranks) {
      std::size_t expected = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const auto [first, last] = chunks_of_rank(chunks, rank, ranks);
        EXPECT_EQ(first, expected);
        EXPECT_GE(last, first);
        expected = last;
      }
      EXPECT_EQ(expected, chunks.size());
    }
  }
}

TEST(ChunksOfRank, EqualChunksAreSharedEqually) {
  const std::vector<Chunk> chunks = make_chunks(std::vector<std::int64_t>(32, 2048), 2048);
  for (int rank = 0; rank < 4; ++rank) {
    const auto [first, last] = chunks_of_rank(chunks, rank, 4);
    EXPECT_EQ(last - first, 8u);
  }
}

TEST(ChunksOfRank, MoreRanksThanChunksLeavesSomeIdle) {
  const std::vector<Chunk> chunks = make_chunks({10, 10}, 10);
  std::size_t held = 0;
  for (int rank = 0; rank < 7; ++rank) {
    const auto [first, last] = chunks_of_rank(chunks, rank, 7);
    held += last - first;
  }
  EXPECT_EQ(held, 2u);
}

TEST(MostChunksToSum, IsThatOfTheFullestRank) {
  const std::vector<Chunk> chunks = make_chunks({10, 10, 10, 10, 10, 10}, 10, 1);  // the last one is held out
  EXPECT_EQ(most_chunks_to_sum(chunks, 1, {}), 5);
  EXPECT_EQ(most_chunks_to_sum(chunks, 2, {}), 3);
  EXPECT_EQ(most_chunks_to_sum(chunks, 2, {0, 1}), 2);
  EXPECT_EQ(most_chunks_to_sum(chunks, 1, {0, 1, 2, 3, 4}), 0);
  EXPECT_EQ(most_chunks_to_sum(chunks, 9, {}), 1);
}

}  // namespace
}  // namespace gptq
