#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "io/safetensors_writer.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;
using Tensors = std::vector<std::pair<std::string, TensorInfo>>;

Tensors two_tensors() {
  return {{"a", {DType::u8, {3}, "", 0, 0}}, {"b", {DType::i32, {2}, "", 0, 0}}};
}

HostTensor filled(DType dtype, std::int64_t size, unsigned char value) {
  HostTensor tensor = make_tensor(dtype, {size});
  std::fill_n(tensor.storage.data(), tensor.storage.size(), std::byte(value));
  return tensor;
}

class WriterResume : public ::testing::Test {
 protected:
  fs::path path() const { return directory_ / "m.safetensors"; }

  void write_first_half() const {
    SafetensorsWriter writer(path(), two_tensors());
    writer.keep_partial();
    writer.write("a", filled(DType::u8, 3, 7));
    writer.sync();
  }

  std::string complaint(const Tensors& tensors) const {
    try {
      const SafetensorsWriter writer(path(), tensors, {"a"});
    } catch (const IoError& error) {
      return error.what();
    }
    return "no complaint";
  }

  TempDirectory directory_;
};

TEST_F(WriterResume, BothHalvesAreThere) {
  write_first_half();
  ASSERT_TRUE(fs::exists(partial_path(path())));
  SafetensorsWriter writer(path(), two_tensors(), {"a"});
  EXPECT_THROW(writer.write("a", filled(DType::u8, 3, 1)), Error) << "it is written already";
  EXPECT_FALSE(writer.complete());
  writer.write("b", filled(DType::i32, 2, 9));
  const std::string hash = writer.finish();
  EXPECT_EQ(hash, sha256_of_file(path()));

  SafetensorsWriter fresh(directory_ / "fresh.safetensors", two_tensors());
  fresh.write("a", filled(DType::u8, 3, 7));
  fresh.write("b", filled(DType::i32, 2, 9));
  EXPECT_EQ(fresh.finish(), hash);
}

TEST_F(WriterResume, AFinishedFileBecomesPartialAgain) {
  {
    SafetensorsWriter writer(path(), two_tensors());
    writer.write("a", filled(DType::u8, 3, 7));
    writer.write("b", filled(DType::i32, 2, 9));
    writer.finish();
  }
  const std::string hash = sha256_of_file(path());
  { const SafetensorsWriter stopped(path(), two_tensors(), {"a"}); }
  EXPECT_FALSE(fs::exists(path()));
  EXPECT_TRUE(fs::exists(partial_path(path()))) << "it belongs to an earlier attempt: never removed";
  SafetensorsWriter writer(path(), two_tensors(), {"a", "b"});
  EXPECT_TRUE(writer.complete());
  EXPECT_EQ(writer.finish(), hash);
}

TEST_F(WriterResume, WhatDoesNotFitStaysAsItIs) {
  EXPECT_THAT(complaint(two_tensors()), HasSubstr("is missing, with and without .partial"));
  write_first_half();
  const fs::path partial = partial_path(path());
  const std::string before = read_text_file(partial);
  Tensors other = two_tensors();
  other[1].first = "c";  // the same length of header and file
  EXPECT_THAT(complaint(other), HasSubstr("has another header"));
  other[1].second.shape = {3};
  EXPECT_THAT(complaint(other), HasSubstr("bytes instead of"));
  EXPECT_EQ(read_text_file(partial), before);
  EXPECT_EQ(complaint(two_tensors()), "no complaint");
}

TEST_F(WriterResume, LayoutSaysWhereTensorsLie) {
  write_first_half();
  const SafetensorsLayout layout = lay_out_safetensors(two_tensors());
  const auto found = read_safetensors_header(partial_path(path()));
  ASSERT_EQ(layout.tensors.size(), 2u);
  EXPECT_EQ(layout.tensors[0].first, "b") << "wider elements come first";
  for (const auto& [name, info] : layout.tensors) {
    EXPECT_EQ(info.offset, found.at(name).offset);
    EXPECT_EQ(info.bytes, found.at(name).bytes);
  }
  EXPECT_EQ(layout.bytes, fs::file_size(partial_path(path())));
}

}  // namespace
}  // namespace gptq::test
