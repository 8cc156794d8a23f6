#include <gtest/gtest.h>

#include "base/error.h"
#include "quant/quantized_layer.h"

namespace gptq {
namespace {

TEST(RowsOfRank, EveryRowHasExactlyOneRank) {
  for (const std::vector<std::int64_t>& layers :
       {std::vector<std::int64_t>{576, 192, 192}, {1}, {63, 64, 65}, {4096, 14336}, {10, 10, 10}}) {
    for (const int ranks : {1, 2, 3, 4, 7, 100}) {
      std::vector<std::vector<int>> owners;
      std::int64_t least = 1 << 30, most = 0;
      for (const std::int64_t rows : layers) owners.emplace_back(static_cast<std::size_t>(rows), 0);
      for (int rank = 0; rank < ranks; ++rank) {
        std::int64_t panels = 0;
        for (const RowRange& range : rows_of_rank(layers, rank, ranks)) {
          EXPECT_EQ(range.first % SolveOptions::kPanelRows, 0);
          EXPECT_GT(range.count, 0);
          panels += (range.count + SolveOptions::kPanelRows - 1) / SolveOptions::kPanelRows;
          for (std::int64_t row = range.first; row < range.first + range.count; ++row)
            ++owners.at(static_cast<std::size_t>(range.layer)).at(static_cast<std::size_t>(row));
        }
        least = std::min(least, panels);
        most = std::max(most, panels);
      }
      for (const auto& layer : owners)
        for (const int count : layer) EXPECT_EQ(count, 1);
      EXPECT_LE(most - least, 1);
    }
  }
}

QuantizedRows some_rows(std::int64_t rows, double value) {
  const auto count = static_cast<std::size_t>(rows);
  QuantizedRows result;
  result.rows = rows;
  result.codes.assign(count * 5, 3);
  result.scales.assign(count * 2, f16{0x3c00});
  result.zeros.assign(count * 2, 8);
  for (auto* numbers : {&result.solve_loss, &result.solve_error, &result.output_error, &result.output_norm,
                        &result.weight_error, &result.weight_norm})
    numbers->assign(count, value++);
  return result;
}

TEST(RowSerialisation, RoundTripAndDamage) {
  const std::vector<std::byte> bytes =
      serialize({{{0, 64, 2}, {2, 0, 3}}, {some_rows(2, 1), some_rows(3, 10)}});
  const SolvedRows back = deserialize_rows(bytes);
  ASSERT_EQ(back.ranges.size(), 2u);
  EXPECT_EQ(back.ranges[0].first, 64);
  EXPECT_EQ(back.ranges[1].layer, 2);
  ASSERT_EQ(back.rows.size(), 2u);
  EXPECT_EQ(back.rows[1].codes, std::vector<std::uint8_t>(15, 3));
  EXPECT_EQ(back.rows[1].scales[5].bits, 0x3c00);
  EXPECT_EQ(back.rows[1].output_norm, std::vector<double>(3, 13));
  EXPECT_EQ(back.rows[0].weight_norm, std::vector<double>(2, 6));

  for (const std::size_t cut : {std::size_t{0}, std::size_t{7}, bytes.size() / 2, bytes.size() - 1})
    EXPECT_THROW(deserialize_rows(std::span(bytes).first(cut)), Error);
  std::vector<std::byte> longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_THROW(deserialize_rows(longer), Error);
  EXPECT_THROW(deserialize_rows(serialize({{{0, 0, 4}}, {some_rows(5, 1)}})), Error);
}

TEST(RowSerialisation, NothingToSend) {
  const SolvedRows back = deserialize_rows(serialize(SolvedRows()));
  EXPECT_TRUE(back.ranges.empty());
  EXPECT_TRUE(back.rows.empty());
}

}  // namespace
}  // namespace gptq
