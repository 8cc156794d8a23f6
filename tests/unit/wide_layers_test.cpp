// Sizes beyond 2^31 in everything that counts elements and bytes: a layer of 53,248 inputs has 2.8 billion
// entries in its factor. No test here needs the memory that it speaks of.

#include <gtest/gtest.h>

#include <cstring>

#include "io/checkpoint_regions.h"
#include "io/safetensors_writer.h"
#include "kernels/kernels.h"
#include "pipeline/plan.h"
#include "quant/packing.h"
#include "support/sparse_memory.h"
#include "support/temp_directory.h"
#include "unit/hollow_model.h"

namespace gptq::test {
namespace {

// From the definition, panel by panel: panel p stores rows [192 p, …) from column 192 p on.
TEST(WideSizes, TriangularPanels) {
  for (const std::int64_t n : {std::int64_t{53'248}, std::int64_t{46'341}, std::int64_t{100'003}}) {
    __int128 offset = 0;
    for (std::int64_t panel = 0; panel < TriangularPanels::panels(n); ++panel) {
      const std::int64_t start = panel * 192, rows = std::min<std::int64_t>(192, n - start),
                         width = n - start;
      ASSERT_TRUE(TriangularPanels::offset(n, panel) == offset) << n << " " << panel;
      for (const std::int64_t row : {start, start + rows / 2, start + rows - 1}) {
        for (const std::int64_t col : {start, row, n - 1}) {
          ASSERT_TRUE(TriangularPanels::index(n, row, col) ==
                      offset + __int128{row - start} * width + (col - start))
              << n << " " << row << " " << col;
        }
      }
      ASSERT_EQ(TriangularPanels::size(n, {panel, panel + 1}), rows * width);
      offset += __int128{rows} * width;
    }
    EXPECT_TRUE(TriangularPanels::size(n) == offset);
    EXPECT_TRUE(TriangularPanels::size(n, {0, TriangularPanels::panels(n)}) == offset);
    EXPECT_EQ(TriangularPanels::index(n, n - 1, n - 1), TriangularPanels::size(n) - 1);
  }
  EXPECT_EQ(TriangularPanels::size(53'248) * 8, 11'382'259'712);  // bytes of one sum
}

TEST(WideSizes, MatrixViews) {
  const SparseMemory memory(std::size_t{53'248} * 53'248 * sizeof(float));
  const Matrix all{memory.as<float>(), DType::f32, 53'248, 53'248, 53'248};
  EXPECT_EQ(all.row<float>(50'000) - memory.as<float>(), std::int64_t{50'000} * 53'248);
  EXPECT_EQ(all.rows_from(50'000, 1).row<float>(0), all.row<float>(50'000));
  EXPECT_EQ(all.rows_from(50'000, 1).cols_from(53'000, 8).row<float>(0), all.row<float>(50'000) + 53'000);
}

TEST(WideSizes, PackedCodes) {
  EXPECT_EQ(packed_words(std::int64_t{1} << 33, 4), std::int64_t{1} << 30);
  EXPECT_EQ(packed_words(53'248, 3), 53'248 * 3 / 32);
}

TEST(WideSizes, TensorsOfManyGigabytes) {
  const TensorInfo large{DType::bf16, {53'248, 53'248}, "", 0, 0};
  const SafetensorsLayout layout = lay_out_safetensors({{"a", large}, {"b", large}});
  constexpr std::uint64_t kBytes = std::uint64_t{53'248} * 53'248 * 2;
  ASSERT_EQ(layout.tensors.size(), 2u);
  EXPECT_EQ(layout.tensors[0].second.bytes, kBytes);
  EXPECT_EQ(layout.tensors[1].second.offset - layout.tensors[0].second.offset, kBytes);
  EXPECT_EQ(layout.bytes, layout.header.size() + 2 * kBytes);
}

TEST(WideSizes, ARegionOfACheckpointBeyondFourGigabytes) {
  constexpr std::int64_t kRows = 40'000, kCols = 60'000, kStride = 65'536;  // 9.6 GB in 10.5 GB
  const SparseMemory memory(static_cast<std::size_t>(kRows * kStride) * sizeof(float));
  const Matrix matrix{memory.as<float>(), DType::f32, kRows, kCols, kStride};
  matrix.row<float>(39'000)[59'999] = 1.5f;
  matrix.row<float>(39'001)[0] = -2.5f;
  const FileRegion region("wide", 4096, matrix);
  EXPECT_EQ(region.bytes(), std::uint64_t{kRows} * kCols * sizeof(float));
  EXPECT_EQ(region.end(), 4096 + region.bytes());
  std::vector<std::byte> scratch;
  const std::uint64_t place = (std::uint64_t{39'000} * kCols + 59'999) * sizeof(float);
  float two[2];
  std::memcpy(two, region.piece(place, sizeof two, scratch), sizeof two);
  EXPECT_EQ(two[0], 1.5f);
  EXPECT_EQ(two[1], -2.5f);
}

/// Llama 3.1 405B, whose down_proj has 53,248 inputs; in fp8 half the bytes are read.
class WidePlan : public testing::TestWithParam<const char*> {};

TEST_P(WidePlan, CountsInSixtyFourBits) {
  const TempDirectory directory;
  HollowShape shape{16'384, 53'248, 126, 128, 8, 128'256};
  shape.dtype = GetParam();
  write_hollow_model(directory.path(), shape);
  const ModelWeights model(directory.path());
  model.check();
  JobConfig job;
  job.quantization.correction_alpha = 0;
  PlanRequest request{job, model, std::vector<std::int64_t>(128, 2048), 8, DType::bf16};
  request.device = PlannedDevice::absent(80'000'000'000, 1, 8);
  request.node_memory_bytes = 2'000'000'000'000;
  request.ranks_on_node = 8;
  const Plan plan = make_plan(request);

  // By hand: the linears of a block, embedding and head, three sums of 16,384 columns a block and one of
  // 53,248.
  const std::int64_t linears = 2 * 16'384LL * 16'384 + 2 * 1'024LL * 16'384 + 3 * 53'248LL * 16'384;
  const std::int64_t sums = 3 * TriangularPanels::size(16'384) + TriangularPanels::size(53'248);
  const bool fp8 = shape.dtype == "F8_E4M3";
  const std::int64_t scales = fp8 ? 4 * (2 * 128LL * 128 + 2 * 8 * 128 + 3 * 416 * 128) : 0;
  EXPECT_EQ(plan.block_read_bytes, 126 * (linears * (fp8 ? 1 : 2) + scales));
  EXPECT_EQ(plan.reduced_bytes, 126 * 8 * sums);
  EXPECT_EQ(plan.broadcast_bytes, 126 * 4 * (3 * 16'384LL * 16'384 + 53'248LL * 53'248));
  const std::int64_t tables = 2 * 2 * 128'256LL * 16'384;
  EXPECT_GT(plan.read_bytes, plan.block_read_bytes + tables);
  EXPECT_LT(plan.read_bytes, plan.block_read_bytes + tables + 100'000'000);
  // 4 bits and scales of 2 bytes, zeros of 4 bits for 128 columns: a little more than 4.15 bits a weight.
  EXPECT_NEAR(static_cast<double>(plan.output_bytes),
              126.0 * static_cast<double>(linears) * 4.16 / 8 + tables, 1e9);
  EXPECT_EQ(plan.device_memory.weight_bytes, 2 * 2 * linears);  // as bf16 on the device, two blocks
}

INSTANTIATE_TEST_SUITE_P(Types, WidePlan, testing::Values("BF16", "F8_E4M3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace gptq::test
