#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "base/error.h"
#include "base/sha256.h"
#include "io/checkpoint_regions.h"
#include "io/hdf5_handle.h"
#include "io_checkpoint_support.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CheckpointFile : public ::testing::Test {
 protected:
  fs::path path() const { return directory_ / "gen-000007-rank-0000.h5"; }

  WrittenFile write(const RankShape& shape) {
    fill(memory_, shape);
    return write_rank_file(path(), memory_.state);
  }

  TempDirectory directory_;
  RankMemory memory_;
};

template <typename T>
std::vector<T> rows_of(const RankFile& file, const std::string& name, std::int64_t first, std::int64_t count,
                       std::int64_t rows, std::int64_t cols, DType dtype) {
  std::vector<T> values(static_cast<std::size_t>(rows * cols));
  file.read_rows(name, first, count, matrix_of(values.data(), dtype, rows, cols));
  return values;
}

template <typename T>
std::vector<T> slice(const std::vector<T>& all, std::int64_t first_row, std::int64_t rows,
                     std::int64_t cols) {
  return {all.begin() + first_row * cols, all.begin() + (first_row + rows) * cols};
}

TEST_F(CheckpointFile, EverythingComesBackAsItWas) {
  RankShape shape;
  shape.first_sample = 4;
  shape.hidden_before = true;
  shape.chunks = {1, 5, 9};
  shape.layers = 3;
  const WrittenFile written = write(shape);
  EXPECT_EQ(written.bytes, fs::file_size(path()));
  EXPECT_EQ(written.sha256, sha256_of_file(path()));
  EXPECT_FALSE(fs::exists(path().string() + ".partial"));

  const RankFile file(path());
  EXPECT_EQ(file.header().generation, 7);
  EXPECT_EQ(file.header().block, 3);
  EXPECT_EQ(file.header().group, 1);
  EXPECT_THAT(file.samples(), ElementsAre(4, 5, 6));
  EXPECT_THAT(file.lengths(), ElementsAre(3, 5, 2));
  EXPECT_THAT(file.chunks_summed(), ElementsAre(1, 5, 9));
  EXPECT_EQ(rows_of<float>(file, "hidden", 4, 3, 10, 8, DType::f32), memory_.hidden);
  EXPECT_EQ(rows_of<float>(file, "hidden_before", 4, 3, 10, 8, DType::f32), memory_.hidden_before);
  EXPECT_EQ(rows_of<std::uint16_t>(file, "x", 4, 3, 10, 12, DType::bf16), memory_.x_bf16);
  std::vector<std::int64_t> sum(memory_.sum.size(), 3);
  file.add_sum("sum", sum);
  for (std::size_t i = 0; i < sum.size(); ++i) EXPECT_EQ(sum[i], memory_.sum[i] + 3);

  const std::vector<QuantizedLayer> layers = file.layers();
  ASSERT_EQ(layers.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    const QuantizedLayer& expected = memory_.layers[i];
    EXPECT_EQ(layers[i].module, expected.module);  // also: the order of writing
    EXPECT_EQ(layers[i].out_features, expected.out_features);
    EXPECT_EQ(layers[i].in_features, expected.in_features);
    EXPECT_EQ(layers[i].groups, expected.groups);
    EXPECT_EQ(layers[i].bits, expected.bits);
    EXPECT_EQ(layers[i].codes, expected.codes);
    EXPECT_EQ(layers[i].zeros, expected.zeros);
    EXPECT_EQ(layers[i].group_of, expected.group_of);
    ASSERT_EQ(layers[i].scales.size(), expected.scales.size());
    EXPECT_EQ(std::memcmp(layers[i].scales.data(), expected.scales.data(), expected.scales.size() * 2), 0);
  }
}

TEST_F(CheckpointFile, RowsOfTheLastSamplesAloneAreFoundBySample) {
  RankShape shape;
  shape.first_sample = 4;
  shape.held_out = 2;  // samples 5 and 6, of five tokens and two
  write(shape);
  const RankFile file(path());
  ASSERT_TRUE(file.has("held_out_hidden"));
  EXPECT_EQ(rows_of<float>(file, "held_out_hidden", 5, 2, 7, 8, DType::f32), memory_.held_out);
  EXPECT_EQ(rows_of<float>(file, "held_out_hidden", 6, 1, 2, 8, DType::f32),
            slice(memory_.held_out, 5, 2, 8));
  EXPECT_THAT(complaint<InputError>([&] { rows_of<float>(file, "held_out_hidden", 4, 1, 3, 8, DType::f32); }),
              HasSubstr("held_out_hidden has no rows of sample 4"));
  EXPECT_EQ(rows_of<float>(file, "hidden", 4, 3, 10, 8, DType::f32), memory_.hidden);
}

TEST_F(CheckpointFile, HalfASampleHeldOutIsRefused) {
  RankShape shape;
  shape.held_out = 2;
  fill(memory_, shape);
  memory_.state.held_out_hidden.rows -= 1;
  write_rank_file(path(), memory_.state);
  EXPECT_THAT(complaint<InputError>([&] { RankFile file(path()); }),
              HasSubstr("held_out_hidden has 6 rows, its samples 10 tokens"));
}

TEST_F(CheckpointFile, WhatIsNoPartOfTheStateIsNotThere) {
  RankShape shape;
  shape.x_width = 0;
  write(shape);
  const RankFile file(path());
  for (const char* name : {"x", "sum", "hidden_before"}) EXPECT_FALSE(file.has(name)) << name;
  EXPECT_TRUE(file.layers().empty());
  EXPECT_TRUE(file.chunks_summed().empty());
  std::vector<std::int64_t> sum(4);
  EXPECT_THROW(file.add_sum("sum", sum), InputError);
}

TEST_F(CheckpointFile, SinglePrecisionInputs) {
  RankShape shape;
  shape.x_dtype = DType::f32;
  write(shape);
  const RankFile file(path());
  EXPECT_EQ(rows_of<float>(file, "x", 0, 3, 10, 12, DType::f32), memory_.x_f32);
  EXPECT_THROW(rows_of<std::uint16_t>(file, "x", 0, 3, 10, 12, DType::bf16), InputError);
}

TEST_F(CheckpointFile, ARankWithoutSamples) {
  RankShape shape;
  shape.lengths = {};
  shape.layers = 1;
  write(shape);
  const RankFile file(path());
  EXPECT_TRUE(file.samples().empty());
  EXPECT_EQ(file.columns("hidden"), 8);
  EXPECT_EQ(file.layers().size(), 1U);
  EXPECT_THROW(rows_of<float>(file, "hidden", 0, 1, 3, 8, DType::f32), InputError);
}

TEST_F(CheckpointFile, AnySamplesCanBeReadAlone) {
  RankShape shape;
  shape.first_sample = 10;
  shape.lengths = {3, 5, 2, 7};
  write(shape);
  const std::vector<std::int64_t> first_row = {0, 3, 8, 10, 17};
  const RankFile file(path());
  for (std::size_t begin = 0; begin < 4; ++begin) {
    for (std::size_t end = begin + 1; end <= 4; ++end) {
      const std::int64_t rows = first_row[end] - first_row[begin];
      const auto first = static_cast<std::int64_t>(10 + begin);
      const auto count = static_cast<std::int64_t>(end - begin);
      EXPECT_EQ(rows_of<float>(file, "hidden", first, count, rows, 8, DType::f32),
                slice(memory_.hidden, first_row[begin], rows, 8));
      EXPECT_EQ(rows_of<std::uint16_t>(file, "x", first, count, rows, 12, DType::bf16),
                slice(memory_.x_bf16, first_row[begin], rows, 12));
    }
  }
}

TEST_F(CheckpointFile, RowsGoIntoAWiderMatrixAndLeaveTheRestAlone) {
  write({});
  std::vector<float> wide(5 * 11, -1);
  RankFile(path()).read_rows("hidden", 1, 1, {wide.data(), DType::f32, 5, 8, 11});
  for (std::int64_t r = 0; r < 5; ++r) {
    for (std::int64_t c = 0; c < 11; ++c) {
      const float expected = c < 8 ? memory_.hidden[static_cast<std::size_t>((3 + r) * 8 + c)] : -1;
      EXPECT_EQ(wide[static_cast<std::size_t>(r * 11 + c)], expected) << r << ' ' << c;
    }
  }
}

TEST_F(CheckpointFile, RowsComeFromAWiderMatrix) {
  fill(memory_, {});
  std::vector<float> wide(10 * 11, -1);
  for (std::size_t i = 0; i < 80; ++i) wide[i / 8 * 11 + i % 8] = memory_.hidden[i];
  memory_.state.hidden = {wide.data(), DType::f32, 10, 8, 11};
  write_rank_file(path(), memory_.state);
  EXPECT_EQ(rows_of<float>(RankFile(path()), "hidden", 0, 3, 10, 8, DType::f32), memory_.hidden);
}

TEST_F(CheckpointFile, MoreThanOnePieceOfEveryKind) {
  RankShape shape;
  shape.lengths = {1500, 1500};
  shape.hidden = 2000;  // 24 MB
  shape.x_width = 0;
  shape.chunks = {0};
  shape.sum_entries = (1 << 20) + 321;  // more than one piece of add_sum
  const WrittenFile written = write(shape);
  EXPECT_EQ(written.sha256, sha256_of_file(path()));
  const RankFile file(path());
  EXPECT_EQ(rows_of<float>(file, "hidden", 0, 2, 3000, 2000, DType::f32), memory_.hidden);
  std::vector<std::int64_t> sum(shape.sum_entries);
  file.add_sum("sum", sum);
  EXPECT_EQ(sum, memory_.sum);
}

TEST_F(CheckpointFile, TheSameStateGivesTheSameBytes) {
  RankShape shape;
  shape.layers = 2;
  shape.chunks = {1};
  const WrittenFile first = write(shape);
  EXPECT_EQ(write_rank_file(path(), memory_.state).sha256, first.sha256);
}

TEST_F(CheckpointFile, RequestsThatDoNotFitAreRefused) {
  RankShape shape;
  shape.first_sample = 4;
  shape.chunks = {1};
  write(shape);
  const RankFile file(path());
  const auto read = [&](const char* name, std::int64_t first, std::int64_t count, std::int64_t rows,
                        std::int64_t cols) {
    return complaint<InputError>([&] { rows_of<float>(file, name, first, count, rows, cols, DType::f32); });
  };
  const auto names_file = HasSubstr(path().string());
  EXPECT_THAT(read("hidden", 3, 1, 3, 8), AllOf(names_file, HasSubstr("it has 4 to 6")));
  EXPECT_THAT(read("hidden", 6, 2, 2, 8), AllOf(names_file, HasSubstr("it has 4 to 6")));
  EXPECT_THAT(read("hidden", 4, 1, 4, 8), AllOf(names_file, HasSubstr("3 x 8 F32")));
  EXPECT_THAT(read("hidden", 4, 1, 3, 9), AllOf(names_file, HasSubstr("3 x 9 F32")));
  EXPECT_THAT(read("hidden_before", 4, 1, 3, 8), AllOf(names_file, HasSubstr("no dataset hidden_before")));
  std::vector<std::int64_t> sum(memory_.sum.size() + 1);
  EXPECT_THAT(complaint<InputError>([&] { file.add_sum("sum", sum); }),
              HasSubstr("40 entries, 41 are expected"));
}

TEST_F(CheckpointFile, OtherFilesAreNamed) {
  const auto open = [&] { return complaint<InputError>([&] { RankFile file(path()); }); };
  EXPECT_THAT(open(), AllOf(HasSubstr(path().string()), HasSubstr("does not exist")));
  std::ofstream(path()) << "no HDF5";
  EXPECT_THAT(open(), AllOf(HasSubstr(path().string()), HasSubstr("no HDF5 file")));
  { hdf5_create(path()); }
  EXPECT_THAT(open(), AllOf(HasSubstr(path().string()), HasSubstr("no attribute 'format'")));
}

TEST_F(CheckpointFile, AMissingDirectoryIsAnErrorWithFileAndReason) {
  fill(memory_, {});
  const fs::path nowhere = directory_ / "nowhere" / "file.h5";
  EXPECT_THAT(complaint<IoError>([&] { write_rank_file(nowhere, memory_.state); }),
              AllOf(HasSubstr(nowhere.string()), HasSubstr("No such file or directory")));
}

TEST_F(CheckpointFile, ADirectoryInTheWayIsAnErrorAndLeavesNothing) {
  fill(memory_, {});
  fs::create_directories(path() / "inside");
  EXPECT_THAT(complaint<IoError>([&] { write_rank_file(path(), memory_.state); }),
              HasSubstr(path().string()));
  EXPECT_FALSE(fs::exists(path().string() + ".partial"));
}

/// Files may not grow beyond a limit while this lives: writes fail as on a full disk.
class SizeLimit {
 public:
  explicit SizeLimit(std::uint64_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST_F(CheckpointFile, AFileThatCannotBeWrittenIsAnErrorWhereverItHappens) {
  RankShape shape;
  shape.lengths = {60, 70};
  shape.chunks = {1, 2};
  shape.layers = 2;
  const std::uint64_t bytes = write(shape).bytes;
  fs::remove(path());
  for (std::uint64_t limit = 0; limit < bytes; limit += 997) {
    std::string said;
    {
      const SizeLimit full(limit);
      said = complaint<IoError>([&] { write_rank_file(path(), memory_.state); });
    }
    EXPECT_THAT(said, AllOf(HasSubstr(path().string()), HasSubstr("File too large"))) << limit;
    EXPECT_FALSE(fs::exists(path())) << limit;
    EXPECT_FALSE(fs::exists(path().string() + ".partial")) << limit;
  }
  EXPECT_EQ(write_rank_file(path(), memory_.state).bytes, bytes);  // and afterwards all is well again
}

TEST(CheckpointRegions, EveryByteThatReadsBackWronglyIsNoticed) {
  const TempDirectory directory;
  const fs::path path = directory / "file";
  std::vector<float> packed(6);
  std::vector<float> spread(3 * 5, 9);
  for (std::size_t i = 0; i < 6; ++i) packed[i] = spread[i / 2 * 5 + i % 2] = static_cast<float>(i) + 0.5F;
  std::vector<FileRegion> regions;
  regions.emplace_back("structure", 0, std::vector<std::byte>(7, std::byte{42}));
  regions.emplace_back("packed", 7, matrix_of(packed.data(), DType::f32, 3, 2));
  regions.emplace_back("spread", 31, Matrix{spread.data(), DType::f32, 3, 2, 5});
  {
    const File file = File::create(path);
    for (const FileRegion& region : regions) write_region(file, region);
  }
  const auto check = [&] { return hash_and_compare(File::open(path), path, regions); };
  ASSERT_EQ(check(), sha256_of_file(path));
  for (std::uint64_t place = 0; place < 55; ++place) {
    flip(path, place, 0x80);
    const char* region = place < 7 ? "structure" : place < 31 ? "packed" : "spread";
    EXPECT_THAT(complaint<IoError>(check),
                AllOf(HasSubstr(path.string()), HasSubstr(fmt::format("byte {} ({})", place, region))));
    flip(path, place, 0x80);
  }
  EXPECT_EQ(check(), sha256_of_file(path));
}

}  // namespace
}  // namespace gptq::test
