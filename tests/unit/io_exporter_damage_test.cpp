#include "base/file.h"
#include "unit/io_export_fixture.h"

namespace gptq::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

/// Three of four blocks are finished: file 1 holds the embedding and a block, file 2 blocks 1 and 2
/// (finished, so it has its final name), file 3 block 3.
class ExporterDamage : public ExportTest {
 protected:
  void SetUp() override {
    make_source({.layers = 4});
    job_.output.max_shard_bytes = 40'000;
    finished_ = export_until(3);
    ASSERT_TRUE(fs::exists(first())) << "the cut into files changed: choose another max_shard_bytes";
    ASSERT_TRUE(fs::exists(second())) << "the cut into files changed: choose another max_shard_bytes";
  }

  fs::path first() const { return output("model-00001-of-00003.safetensors.partial"); }
  fs::path second() const { return output("model-00002-of-00003.safetensors"); }

  void flip(const fs::path& file, std::uint64_t place) const {
    const File target = File::edit(file);
    unsigned char byte = 0;
    target.read_at(&byte, 1, place);
    byte ^= 0x10;
    target.write_at(&byte, 1, place);
  }

  std::vector<std::string> finished_;
};

TEST_F(ExporterDamage, NoneWhereAllIsGood) {
  const auto before = content(job_.output.path);
  EXPECT_EQ(damage(finished_), "none");
  EXPECT_EQ(damage({}), "none");
  EXPECT_EQ(content(job_.output.path), before) << "the check changed something";
}

TEST_F(ExporterDamage, AFlippedBitInAnyTensorOfABlock) {
  for (const auto& [name, info] : read_safetensors_header(second())) {
    for (const std::uint64_t place : {info.offset, info.offset + info.bytes - 1}) {
      flip(second(), place);
      const std::string block = name.starts_with("model.layers.1.") ? "block 1 is lost" : "block 2 is lost";
      EXPECT_THAT(damage(finished_), AllOf(HasSubstr(block), HasSubstr("model-00002-of-00003.safetensors"),
                                           HasSubstr("have changed")))
          << name;
      flip(second(), place);
    }
  }
  EXPECT_EQ(damage(finished_), "none");
}

TEST_F(ExporterDamage, WhatBelongsToNoFinishedBlockDoesNotCount) {
  flip(first(), read_safetensors_header(first()).at("model.embed_tokens.weight").offset);
  EXPECT_EQ(damage(finished_), "none");
  finished_.resize(1);
  fs::remove(second());
  EXPECT_EQ(damage(finished_), "none");
}

TEST_F(ExporterDamage, AMissingFile) {
  fs::remove(second());
  EXPECT_THAT(damage(finished_),
              AllOf(HasSubstr("block 1 is lost"), HasSubstr("model-00002-of-00003.safetensors is missing")));
}

TEST_F(ExporterDamage, ATruncatedFile) {
  fs::resize_file(first(), fs::file_size(first()) - 1);
  EXPECT_THAT(damage(finished_),
              AllOf(HasSubstr("block 0 is lost"), HasSubstr("model-00001-of-00003.safetensors.partial has"),
                    HasSubstr("bytes instead of")));
  fs::resize_file(first(), 0);
  EXPECT_THAT(damage(finished_), HasSubstr("has 0 bytes instead of"));
}

TEST_F(ExporterDamage, AnAlteredHeader) {
  for (const std::uint64_t place : {std::uint64_t{0}, std::uint64_t{7}, std::uint64_t{30}}) {
    flip(first(), place);
    EXPECT_THAT(damage(finished_), HasSubstr("has another header than this job writes"));
    flip(first(), place);
  }
}

TEST_F(ExporterDamage, AFolderInPlaceOfAFile) {
  fs::remove(second());
  fs::create_directory(second());
  EXPECT_THAT(damage(finished_), HasSubstr("block 1 is lost"));
}

TEST_F(ExporterDamage, MoreBlocksThanTheModelHas) {
  finished_.resize(5);
  EXPECT_THAT(damage(finished_), HasSubstr("5 blocks are said to be finished, but the model has 4"));
}

TEST_F(ExporterDamage, ReadersShareTheBlocks) {
  flip(second(), read_safetensors_header(second()).at("model.layers.1.input_layernorm.weight").offset);
  EXPECT_EQ(damage(finished_, {0, 2}), "none");
  EXPECT_THAT(damage(finished_, {1, 2}), HasSubstr("block 1 is lost"));
  EXPECT_EQ(damage(finished_, {7, 8}), "none");
}

}  // namespace
}  // namespace gptq::test
