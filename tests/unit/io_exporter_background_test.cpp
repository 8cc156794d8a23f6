#include "base/file.h"
#include "pipeline/background_export.h"
#include "unit/io_export_fixture.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> in_order(const BlockHashes& hashes) {
  std::vector<std::string> values;
  for (const auto& [block, hash] : hashes) {
    EXPECT_EQ(block, static_cast<std::int64_t>(values.size()));
    values.push_back(hash);
  }
  return values;
}

class BackgroundExportTest : public ExportTest {
 protected:
  void SetUp() override { make_source({.layers = 3}); }

  std::unique_ptr<Exporter> exporter(const ModelWeights& model, const Recipe& recipe,
                                     const std::vector<std::string>& finished = {}) {
    return std::make_unique<Exporter>(job_, model, recipe, "fingerprint", finished);
  }
};

TEST_F(BackgroundExportTest, HashesAreThoseOfTheExporter) {
  const std::vector<std::string> expected = export_until(3);
  fs::remove_all(job_.output.path);
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  BackgroundExport background(exporter(model, recipe));
  EXPECT_TRUE(background.finish_up_to(0).empty());
  for (std::int64_t block = 0; block < 3; ++block) {
    background.write_block(block, model.load_block(block), pattern_layers(model, recipe, block));
  }
  EXPECT_EQ(in_order(background.finish_up_to(2)), std::vector(expected.begin(), expected.begin() + 2));
  EXPECT_EQ(in_order(background.finish_up_to(3)), expected);
  EXPECT_EQ(damage(expected), "none");
  background.finish();
  EXPECT_TRUE(fs::exists(output("model.safetensors")));
}

TEST_F(BackgroundExportTest, GoesOnFromACheckpoint) {
  export_all();
  const auto expected = content(job_.output.path);
  fs::remove_all(job_.output.path);
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  std::vector<std::string> finished;
  {
    BackgroundExport background(exporter(model, recipe));
    background.write_block(0, model.load_block(0), pattern_layers(model, recipe, 0));
    finished = in_order(background.finish_up_to(1));
    background.keep_partial_files();
    background.write_block(1, model.load_block(1), pattern_layers(model, recipe, 1));
  }
  ASSERT_EQ(finished.size(), 1u);
  BackgroundExport background(exporter(model, recipe, finished));
  EXPECT_EQ(in_order(background.finish_up_to(1)), finished);
  for (std::int64_t block = 1; block < 3; ++block) {
    background.write_block(block, model.load_block(block), pattern_layers(model, recipe, block));
  }
  background.finish();
  EXPECT_EQ(content(job_.output.path), expected);
}

TEST_F(BackgroundExportTest, AnErrorAppearsAtTheNextCallAndStays) {
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  BackgroundExport background(exporter(model, recipe));
  background.write_block(0, model.load_block(0), {});  // without its layers
  EXPECT_THROW(background.finish_up_to(1), Error);
  EXPECT_THROW(background.finish_up_to(0), Error);
  EXPECT_THROW(background.write_block(1, model.load_block(1), pattern_layers(model, recipe, 1)), Error);
  EXPECT_THROW(background.finish(), Error);
}

TEST_F(BackgroundExportTest, BlocksComeInOrder) {
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  BackgroundExport background(exporter(model, recipe));
  EXPECT_THROW(background.write_block(1, model.load_block(1), pattern_layers(model, recipe, 1)), Error);
  EXPECT_THROW(background.finish_up_to(1), Error);
}

/// Two ranks write in turn; what they make is what one makes.
TEST_F(BackgroundExportTest, SeveralWriteIntoTheSameFiles) {
  for (const std::int64_t shard : {std::int64_t{1} << 30, std::int64_t{60000}}) {
    job_.output.max_shard_bytes = shard;
    fs::remove_all(job_.output.path);
    export_all();
    const auto expected = content(job_.output.path);
    fs::remove_all(job_.output.path);
    const ModelWeights model(job_.model.path);
    const Recipe recipe(job_.quantization);
    BackgroundExport owner(exporter(model, recipe), 0, 2);
    BackgroundExport other(Exporter::join(job_, model, recipe), 1, 2);
    const auto write = [&](BackgroundExport& writer, std::int64_t block) {
      writer.write_block(block, model.load_block(block), pattern_layers(model, recipe, block));
    };
    write(other, 1);
    write(owner, 0);
    EXPECT_EQ(other.finish_up_to(2).count(1), 1u);
    owner.take(other.finish_up_to(2));
    EXPECT_EQ(owner.finish_up_to(2).size(), 2u);
    write(owner, 2);
    owner.take(other.finish_up_to(3));  // knows them already
    owner.finish();
    EXPECT_EQ(content(job_.output.path), expected) << shard;
  }
}

TEST_F(BackgroundExportTest, WhoeverJoinsNeedsTheOwnersFiles) {
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  fs::create_directories(job_.output.path);
  BackgroundExport other(Exporter::join(job_, model, recipe), 1, 2);
  other.write_block(1, model.load_block(1), pattern_layers(model, recipe, 1));
  EXPECT_THROW(other.finish_up_to(2), IoError);
}

}  // namespace
}  // namespace gptq::test
