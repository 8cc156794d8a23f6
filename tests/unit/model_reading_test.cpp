// A model larger than the machine's memory is read piece by piece, only what is asked for, and never mapped.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "model/safetensors_reader.h"
#include "model/weights.h"
#include "model/weights_identity.h"
#include "support/temp_directory.h"
#include "unit/hollow_model.h"

namespace gptq::test {
namespace {

/// Bytes that this process has asked the system to read so far; -1 where the system does not say.
std::int64_t bytes_read() {
  std::ifstream io("/proc/self/io");
  std::string key;
  for (std::int64_t value = 0; io >> key >> value;) {
    if (key == "rchar:") return value;
  }
  return -1;
}

bool is_mapped(const std::filesystem::path& file) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(file.string()) != std::string::npos) return true;
  }
  return false;
}

class LargeModel : public testing::TestWithParam<const char*> {};

TEST_P(LargeModel, IsReadBlockByBlock) {
  if (bytes_read() < 0) GTEST_SKIP() << "/proc/self/io cannot be read";
  const TempDirectory directory;
  HollowShape shape{1024, 4096, 2000, 16, 4, 32'000};
  shape.dtype = GetParam();
  write_hollow_model(directory.path(), shape);
  const auto file = std::filesystem::canonical(directory.path()) / "model.safetensors";
  constexpr std::int64_t kParameters = 1024 * 1024 * 2 + 256 * 1024 * 2 + 3 * 4096 * 1024;
  const std::int64_t stored = shape.dtype == "F8_E4M3" ? 1 : 2;
  ASSERT_GT(std::filesystem::file_size(file),
            static_cast<std::uint64_t>(2000 * kParameters * stored));  // 30 or 60 GB

  const std::int64_t before = bytes_read();
  const ModelWeights model(directory.path());
  model.check();
  EXPECT_FALSE(weights_sha256(model.files()).empty());
  const std::int64_t opened = bytes_read();
  // The header, and three times 4 KB of each of 18,000 tensors (9 or 16 a block).
  const auto tensors = static_cast<std::int64_t>(model.files().tensors().size());
  EXPECT_LT(opened - before, 3 * 4096 * tensors + 400 * tensors);

  EXPECT_FALSE(model.load_block(1234).tensors.empty());
  const std::int64_t scales = shape.dtype == "F8_E4M3" ? kParameters / 128 / 128 * 4 : 0;
  const std::int64_t of_block = bytes_read() - opened;
  EXPECT_GE(of_block, kParameters * stored + scales);
  EXPECT_LT(of_block,
            kParameters * stored + scales + 100'000);  // norms, and what the test itself reads of /proc
  EXPECT_FALSE(is_mapped(file));
}

INSTANTIATE_TEST_SUITE_P(Types, LargeModel, testing::Values("BF16", "F8_E4M3"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace gptq::test
