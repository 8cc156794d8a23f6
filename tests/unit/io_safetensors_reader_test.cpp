#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "io/safetensors_writer.h"
#include "model/safetensors_reader.h"
#include "support/temp_directory.h"
#include "support/tiny_model.h"

namespace gptq::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// The message of the InputError that `action` must throw.
template <typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const InputError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::bad_input);
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return "";
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

void write_raw(const std::filesystem::path& path, std::uint64_t length, const std::string& header,
               std::size_t data_bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), 8);
  file << header << std::string(data_bytes, 'x');
}

/// A file whose length field is right.
void write_header(const std::filesystem::path& path, const std::string& header, std::size_t data_bytes) {
  write_raw(path, header.size(), header, data_bytes);
}

class SafetensorsHeader : public ::testing::Test {
 protected:
  std::string complaint(const std::string& header, std::size_t data_bytes) {
    write_header(directory_ / "model.safetensors", header, data_bytes);
    return message_of([&] { const SafetensorsReader reader(directory_.path()); });
  }
  TempDirectory directory_;
};

TEST_F(SafetensorsHeader, AcceptsAFileByHand) {
  write_header(
      directory_ / "model.safetensors",
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I32","shape":[2],"data_offsets":[4,12]},)"
      R"("a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
      12);
  const SafetensorsReader reader(directory_.path());
  EXPECT_EQ(reader.tensors().size(), 3u);
  const HostTensor b = reader.read("b");
  EXPECT_EQ(b.dtype, DType::i32);
  EXPECT_EQ(b.shape, (std::vector<std::int64_t>{2}));
  EXPECT_EQ(std::memcmp(b.storage.data(), "xxxxxxxx", 8), 0);
  EXPECT_EQ(reader.read("e").elements(), 0);
}

TEST_F(SafetensorsHeader, TruncatedDataTellsHowMuchIsMissing) {
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 9),
              AllOf(HasSubstr("truncated"), HasSubstr("7 bytes are missing")));
}

TEST_F(SafetensorsHeader, TruncatedHeaderTellsHowMuchIsMissing) {
  write_raw(directory_ / "model.safetensors", 100, "{}", 0);
  EXPECT_THAT(message_of([&] { SafetensorsReader{directory_.path()}; }),
              HasSubstr("98 bytes of its header are missing"));
}

TEST_F(SafetensorsHeader, FileOfAFewBytes) {
  std::ofstream(directory_ / "model.safetensors") << "abc";
  EXPECT_THAT(message_of([&] { SafetensorsReader{directory_.path()}; }), HasSubstr("3 bytes are too few"));
}

TEST_F(SafetensorsHeader, HugeLengthIsRefusedBeforeAnyAllocation) {
  write_raw(directory_ / "model.safetensors", ~std::uint64_t{0}, "{}", 0);
  EXPECT_THAT(message_of([&] { SafetensorsReader{directory_.path()}; }),
              HasSubstr("above the format's limit"));
}

TEST_F(SafetensorsHeader, Overlap) {
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                        R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                        12),
              AllOf(HasSubstr("'a' and 'b' overlap")));
}

TEST_F(SafetensorsHeader, HolesAndRest) {
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12),
              HasSubstr("4 bytes before tensor 'a'"));
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 12),
              HasSubstr("4 bytes after the last"));
}

TEST_F(SafetensorsHeader, ShapesThatCannotBe) {
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8),
              HasSubstr("not -2"));
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,8]}})", 8),
              HasSubstr("not 1.5"));
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
              HasSubstr("impossibly large"));
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,0]}})", 0),
              HasSubstr("impossibly large"));
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
              HasSubstr("takes 12 bytes"));
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), HasSubstr("[8, 0]"));
}

TEST_F(SafetensorsHeader, BrokenEntries) {
  EXPECT_THAT(complaint(R"({"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}})", 8),
              AllOf(HasSubstr("'a'"), HasSubstr("F99"), HasSubstr("BF16")));
  EXPECT_THAT(complaint(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8), HasSubstr("needs dtype"));
  EXPECT_THAT(complaint(R"({"a":7})", 0), HasSubstr("needs dtype"));
  EXPECT_THAT(complaint(R"([1,2])", 0), HasSubstr("not a JSON object"));
  EXPECT_THAT(complaint(R"({"a":)", 0), HasSubstr("no valid JSON"));
  EXPECT_THAT(complaint(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                        1),
              HasSubstr("occurs twice"));
}

TEST(SafetensorsReader, UnknownNameNamesTheNearest) {
  const TempDirectory directory;
  write_tiny_model(directory.path());
  const SafetensorsReader reader(directory.path());
  EXPECT_THAT(message_of([&] { reader.info("model.layers.0.mlp.down_prj.weight"); }),
              HasSubstr("model.layers.0.mlp.down_proj.weight"));
}

TEST(SafetensorsReader, ShardedModelEqualsTheSingleFile) {
  const TempDirectory one, two;
  write_tiny_model(one.path());
  write_tiny_model(two.path(), {.shards = 2});
  const SafetensorsReader a(one.path()), b(two.path());
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const auto& [name, info] : a.tensors()) {
    const HostTensor x = a.read(name), y = b.read(name);
    ASSERT_EQ(x.shape, y.shape) << name;
    EXPECT_EQ(std::memcmp(x.storage.data(), y.storage.data(), x.storage.size()), 0) << name;
  }
  EXPECT_NE(b.info("model.norm.weight").file, b.info("model.embed_tokens.weight").file);
}

class SafetensorsIndex : public ::testing::Test {
 protected:
  void SetUp() override { write_tiny_model(directory_.path(), {.shards = 2}); }
  std::string complaint(const std::string& index) {
    std::ofstream(directory_ / "model.safetensors.index.json") << index;
    return message_of([&] { SafetensorsReader{directory_.path()}; });
  }
  TempDirectory directory_;
};

TEST_F(SafetensorsIndex, AbsentFile) {
  std::filesystem::remove(directory_ / "model-00002-of-00002.safetensors");
  EXPECT_THAT(message_of([&] { SafetensorsReader{directory_.path()}; }),
              AllOf(HasSubstr("model-00002-of-00002.safetensors"), HasSubstr("does not exist")));
}

TEST_F(SafetensorsIndex, PathsThatLeaveTheDirectory) {
  for (const std::string file : {"../secret", "/etc/passwd", "..", "sub/x.safetensors", "", "a\\\\b"}) {
    EXPECT_THAT(complaint(R"({"weight_map":{"a":")" + file + R"("}})"), HasSubstr("no plain file name"))
        << file;
  }
  EXPECT_THAT(complaint(R"({"weight_map":{"a":3}})"), HasSubstr("no plain file name"));
}

TEST_F(SafetensorsIndex, NoIndexAtAll) {
  EXPECT_THAT(complaint("{"), HasSubstr("cannot be read"));
  EXPECT_THAT(complaint("{}"), HasSubstr("'weight_map'"));
  EXPECT_THAT(complaint("[]"), HasSubstr("'weight_map'"));
}

TEST_F(SafetensorsIndex, TensorInAnotherFileThanItSays) {
  EXPECT_THAT(complaint(R"({"weight_map":{"model.norm.weight":"model-00001-of-00002.safetensors"}})"),
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("but it does not")));
}

TEST_F(SafetensorsIndex, TensorInTwoFiles) {
  std::filesystem::copy_file(directory_ / "model-00001-of-00002.safetensors",
                             directory_ / "copy.safetensors");
  EXPECT_THAT(complaint(R"({"weight_map":{"model.embed_tokens.weight":"copy.safetensors",)"
                        R"("model.layers.0.input_layernorm.weight":"model-00001-of-00002.safetensors"}})"),
              HasSubstr("in two files"));
}

TEST(SafetensorsReader, DirectoriesThatAreNoModels) {
  const TempDirectory directory;
  EXPECT_THAT(message_of([&] { SafetensorsReader{directory / "nowhere"}; }), HasSubstr("does not exist"));
  EXPECT_THAT(message_of([&] { SafetensorsReader{directory.path()}; }), HasSubstr("holds neither"));
  std::ofstream(directory / "pytorch_model.bin") << "x";
  EXPECT_THAT(message_of([&] { SafetensorsReader{directory.path()}; }), HasSubstr("convert"));
  EXPECT_THAT(message_of([&] { SafetensorsReader{directory / "pytorch_model.bin"}; }),
              HasSubstr("not a directory"));
}

}  // namespace
}  // namespace gptq::test
