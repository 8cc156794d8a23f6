#include <sys/stat.h>

#include <fstream>
#include <set>

#include "base/file.h"
#include "io/output_directory.h"
#include "unit/io_export_fixture.h"

namespace gptq::test {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr std::int64_t kBlocks = 4;

/// How the output is cut into files. A block has about 19 kB, the embedding 16 kB.
struct Cut {
  const char* name;
  std::int64_t max_file_bytes;
};

class ExporterResume : public ExportTest {
 protected:
  void SetUp() override { make_source({.layers = kBlocks}); }

  std::map<std::string, std::string> undisturbed() {
    const std::string path = job_.output.path;
    job_.output.path = (root_ / "undisturbed").string();
    export_all();
    const auto expected = content(job_.output.path);
    job_.output.path = path;
    return expected;
  }

  /// Exporter, or why there is none.
  std::string complaint(const std::vector<std::string>& finished) {
    try {
      resume(finished);
    } catch (const IoError& error) {
      return error.what();
    }
    return "no complaint";
  }

  /// Turns one byte of a tensor around: a place that is written again does not keep it.
  void flip(const fs::path& file, const std::string& tensor) const {
    const std::uint64_t place = read_safetensors_header(file).at(tensor).offset;
    const File target = File::edit(file);
    unsigned char byte = 0;
    target.read_at(&byte, 1, place);
    byte ^= 1;
    target.write_at(&byte, 1, place);
  }

  static fs::path final_path(fs::path path) {
    return path.extension() == ".partial" ? path.replace_extension() : path;
  }

  static ino_t inode(const fs::path& file) {
    struct stat status {};
    EXPECT_EQ(stat(file.c_str(), &status), 0) << file;
    return status.st_ino;
  }
};

class ExporterResumeCuts : public ExporterResume, public ::testing::WithParamInterface<Cut> {
 protected:
  void SetUp() override {
    ExporterResume::SetUp();
    job_.output.max_shard_bytes = GetParam().max_file_bytes;
  }
};

TEST_P(ExporterResumeCuts, SameBytesAfterAStopAtAnyBlock) {
  const auto expected = undisturbed();
  for (std::int64_t stop = 0; stop <= kBlocks; ++stop) {
    fs::remove_all(job_.output.path);
    const std::vector<std::string> finished = export_until(stop);
    ASSERT_EQ(static_cast<std::int64_t>(finished.size()), stop);
    EXPECT_EQ(damage(finished), "none");
    resume(finished);
    EXPECT_EQ(content(job_.output.path), expected) << "stopped after block " << stop;
  }
}

/// The checkpoint may be older than what was written; and several stops may follow each other.
TEST_P(ExporterResumeCuts, SameBytesWhereTheCheckpointLagsBehind) {
  const auto expected = undisturbed();
  for (const std::int64_t counted : {0, 1, 3}) {
    fs::remove_all(job_.output.path);
    std::vector<std::string> finished = export_until(kBlocks);
    finished.resize(static_cast<std::size_t>(counted));
    {
      const ModelWeights model(job_.model.path);
      const Recipe recipe(job_.quantization);
      Exporter exporter(job_, model, recipe, "fingerprint", finished);  // and stopped at once
    }
    EXPECT_EQ(damage(finished), "none");
    resume(finished);
    EXPECT_EQ(content(job_.output.path), expected) << counted << " blocks counted";
  }
}

TEST_P(ExporterResumeCuts, FinishedBlocksAreNotWrittenAgain) {
  const std::vector<std::string> finished = export_until(2);
  std::map<std::string, fs::path> places;
  for (const char* tensor : {"model.layers.0.mlp.up_proj.qweight", "model.layers.1.mlp.up_proj.scales"}) {
    for (const auto& entry : fs::directory_iterator(job_.output.path)) {
      const std::string name = entry.path().filename().string();
      if (name.find(".safetensors") == std::string::npos) continue;
      if (read_safetensors_header(entry.path()).contains(tensor)) places[tensor] = entry.path();
    }
    flip(places.at(tensor), tensor);
  }
  std::map<std::string, ino_t> inodes;
  for (const auto& [tensor, path] : places) inodes[tensor] = inode(path);
  EXPECT_THAT(damage(finished), HasSubstr("block 0 is lost"));
  resume(finished);
  for (const auto& [tensor, path] : places) {
    EXPECT_EQ(inode(final_path(path)), inodes.at(tensor));
  }
  EXPECT_THAT(damage(finished), HasSubstr("block 0 is lost")) << "the mark in block 0 was overwritten";
  flip(final_path(places.begin()->second), places.begin()->first);
  EXPECT_THAT(damage(finished), HasSubstr("block 1 is lost")) << "the mark in block 1 was overwritten";
}

INSTANTIATE_TEST_SUITE_P(All, ExporterResumeCuts,
                         ::testing::Values(Cut{"OneFile", 5'000'000'000}, Cut{"TwoBlocksAFile", 40'000},
                                           Cut{"ABlockAFile", 1}),
                         [](const auto& param) { return param.param.name; });

TEST_F(ExporterResume, AFileThatWasJustFinishedIsTakenBack) {
  job_.output.max_shard_bytes = 40'000;
  const auto expected = undisturbed();
  const std::vector<std::string> finished = export_until(3);
  fs::path last;
  for (const auto& entry : fs::directory_iterator(job_.output.path)) {
    if (entry.path().extension() == ".safetensors") last = entry.path();
  }
  ASSERT_FALSE(last.empty()) << "no file was finished";
  {
    const ModelWeights model(job_.model.path);
    Exporter exporter(job_, model, Recipe(job_.quantization), "fingerprint", finished);
    EXPECT_FALSE(fs::exists(last));
    EXPECT_TRUE(fs::exists(partial_path(last)));
  }
  resume(finished);
  EXPECT_EQ(content(job_.output.path), expected);
}

TEST_F(ExporterResume, AStopInsideFinishIsGoneOnFrom) {
  const auto expected = undisturbed();
  const std::vector<std::string> finished = export_until(kBlocks);
  resume(finished);
  fs::remove(output(kManifestFile));  // everything but the last step had been done
  std::ofstream(output(kJobMarker)) << "fingerprint\n";
  std::ofstream(output("tokenizer_config.json")) << "from an older attempt";
  EXPECT_EQ(damage(finished), "none");
  resume(finished);
  EXPECT_EQ(content(job_.output.path), expected);
}

TEST_F(ExporterResume, HashesDoNotDependOnTheHistory) {
  const std::vector<std::string> all = export_until(kBlocks);
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), all.size());
  fs::remove_all(job_.output.path);
  const std::vector<std::string> two = export_until(2);
  EXPECT_TRUE(std::equal(two.begin(), two.end(), all.begin()));
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  Exporter exporter(job_, model, recipe, "fingerprint", two);
  EXPECT_EQ(exporter.block_sha256(), two);
  EXPECT_EQ(exporter.write_block(2, model.load_block(2), pattern_layers(model, recipe, 2)), all[2]);
}

TEST_F(ExporterResume, FinishedBlocksCannotBeWrittenTwice) {
  const std::vector<std::string> finished = export_until(1);
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  Exporter exporter(job_, model, recipe, "fingerprint", finished);
  EXPECT_THROW(write_blocks(exporter, model, recipe, 0, 1), Error);
}

TEST_F(ExporterResume, ABlockWithoutOneOfItsLayersIsRefused) {
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  Exporter exporter(job_, model, recipe, "fingerprint");
  std::vector<QuantizedLayer> layers = pattern_layers(model, recipe, 0);
  layers.pop_back();
  EXPECT_THROW(exporter.write_block(0, model.load_block(0), layers), Error);
  EXPECT_TRUE(exporter.block_sha256().empty());
}

TEST_F(ExporterResume, WithoutACheckpointNothingStays) {
  {
    const ModelWeights model(job_.model.path);
    const Recipe recipe(job_.quantization);
    Exporter exporter(job_, model, recipe, "fingerprint");
    write_blocks(exporter, model, recipe, 0, 2);
  }
  EXPECT_FALSE(fs::exists(output("model.safetensors.partial")));
}

TEST_F(ExporterResume, AFreshStartClearsLeftovers) {
  const auto expected = undisturbed();
  job_.output.max_shard_bytes = 1;
  export_until(3);
  job_.output.max_shard_bytes = 5'000'000'000;
  export_all();
  EXPECT_EQ(content(job_.output.path), expected);
}

TEST_F(ExporterResume, WhatDoesNotFitIsRefusedUntouched) {
  const std::vector<std::string> finished = export_until(2);
  std::ofstream(output("config.json")) << "{}";
  fs::resize_file(output("model.safetensors.partial"), 1000);
  const auto before = content(job_.output.path);
  EXPECT_THAT(complaint(finished), HasSubstr("has 1000 bytes instead of"));
  EXPECT_EQ(content(job_.output.path), before);
  fs::remove(output("model.safetensors.partial"));
  EXPECT_THAT(complaint(finished), HasSubstr("is missing"));
}

TEST_F(ExporterResume, AnotherJobsDirectoryIsRefused) {
  const std::vector<std::string> finished = export_until(2);
  std::ofstream(output(kJobMarker)) << "theirs\n";
  const auto before = content(job_.output.path);
  EXPECT_THAT(complaint(finished), HasSubstr("--overwrite"));
  EXPECT_EQ(content(job_.output.path), before);
}

}  // namespace
}  // namespace gptq::test
