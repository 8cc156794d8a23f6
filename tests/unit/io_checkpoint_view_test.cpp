#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/hdf5_handle.h"
#include "io_checkpoint_support.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
std::vector<T> read_plainly(const fs::path& path, const char* name, hid_t type) {
  const Hdf5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
  const Hdf5Handle data(H5Dopen2(file.get(), name, H5P_DEFAULT));
  const Hdf5Handle space(H5Dget_space(data.get()));
  std::vector<T> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space.get())));
  EXPECT_GE(H5Dread(data.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  return values;
}

template <typename T>
std::vector<T> joined(std::vector<T> first, const std::vector<T>& second, const std::vector<T>& third) {
  first.insert(first.end(), second.begin(), second.end());
  first.insert(first.end(), third.begin(), third.end());
  return first;
}

class CheckpointView : public ::testing::Test {
 protected:
  fs::path view() const { return directory_ / checkpoint_view_name(7); }
  fs::path file(int rank) const { return directory_ / checkpoint_file_name(7, rank); }

  void write(int rank, RankShape shape) {
    shape.rank = rank;
    fill(memory_[static_cast<std::size_t>(rank)], shape);
    write_rank_file(file(rank), memory_[static_cast<std::size_t>(rank)].state);
  }

  TempDirectory directory_;
  std::array<RankMemory, 3> memory_;
};

TEST_F(CheckpointView, ShowsTheRankFilesAsOneArrayInTheOrderOfTheSamples) {
  RankShape shape;
  shape.hidden_before = true;
  write(2, shape);
  shape.first_sample = 3;
  shape.lengths = {4, 1};
  write(0, shape);
  shape.first_sample = 5;
  shape.lengths = {2};
  write(1, shape);
  write_view_file(view(), {file(0), file(1), file(2)});
  EXPECT_FALSE(fs::exists(view().string() + ".partial"));
  const auto& [second, third, first] = memory_;
  EXPECT_THAT(read_plainly<std::int64_t>(view(), "samples", H5T_NATIVE_INT64), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(read_plainly<std::int64_t>(view(), "lengths", H5T_NATIVE_INT64), ElementsAre(3, 5, 2, 4, 1, 2));
  EXPECT_EQ(read_plainly<float>(view(), "hidden", H5T_NATIVE_FLOAT),
            joined(first.hidden, second.hidden, third.hidden));
  EXPECT_EQ(read_plainly<float>(view(), "hidden_before", H5T_NATIVE_FLOAT),
            joined(first.hidden_before, second.hidden_before, third.hidden_before));
  EXPECT_EQ(read_plainly<std::uint16_t>(view(), "x", H5T_NATIVE_UINT16),
            joined(first.x_bf16, second.x_bf16, third.x_bf16));
}

TEST_F(CheckpointView, SinglePrecisionAndARankWithoutSamples) {
  RankShape shape;
  shape.x_dtype = DType::f32;
  write(0, shape);
  shape.lengths = {};
  write(1, shape);
  write_view_file(view(), {file(0), file(1)});
  EXPECT_EQ(read_plainly<float>(view(), "x", H5T_NATIVE_FLOAT), memory_[0].x_f32);
  EXPECT_EQ(read_plainly<float>(view(), "hidden", H5T_NATIVE_FLOAT), memory_[0].hidden);
}

TEST_F(CheckpointView, WithoutInputsOfAStageGroup) {
  RankShape shape;
  shape.x_width = 0;
  write(0, shape);
  write_view_file(view(), {file(0)});
  const Hdf5Handle opened(H5Fopen(view().c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
  EXPECT_EQ(H5Lexists(opened.get(), "x", H5P_DEFAULT), 0);
  EXPECT_GT(H5Lexists(opened.get(), "hidden", H5P_DEFAULT), 0);
}

TEST_F(CheckpointView, IsFoundAgainWhenTheDirectoryMoves) {
  write(0, {});
  write_view_file(view(), {file(0)});
  const TempDirectory other;
  const fs::path moved = other / "moved";
  fs::copy(directory_.path(), moved);
  fs::remove(file(0));
  EXPECT_EQ(read_plainly<float>(moved / checkpoint_view_name(7), "hidden", H5T_NATIVE_FLOAT),
            memory_[0].hidden);
}

TEST_F(CheckpointView, FilesThatDoNotBelongTogetherAreRefused) {
  RankShape shape;
  write(0, shape);
  shape.hidden = 9;
  write(1, shape);
  EXPECT_THAT(complaint<InputError>([&] {
                write_view_file(view(), {file(0), file(1)});
              }),
              HasSubstr("do not belong together"));
  EXPECT_FALSE(fs::exists(view()));
  EXPECT_FALSE(fs::exists(view().string() + ".partial"));
}

TEST_F(CheckpointView, AMissingDirectoryIsAnErrorWithFileAndReason) {
  const fs::path nowhere = directory_ / "nowhere" / "view.h5";
  EXPECT_THAT(complaint<IoError>([&] { write_view_file(nowhere, {}); }),
              HasSubstr("No such file or directory"));
}

}  // namespace
}  // namespace gptq::test
