#include "base/file.h"
#include "pipeline/background_export.h"
#include "unit/io_export_fixture.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;

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
  EXPECT_EQ(background.finish_up_to(2), std::vector(expected.begin(), expected.begin() + 2));
  EXPECT_EQ(background.finish_up_to(3), expected);
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
    finished = background.finish_up_to(1);
    background.keep_partial_files();
    background.write_block(1, model.load_block(1), pattern_layers(model, recipe, 1));
  }
  ASSERT_EQ(finished.size(), 1u);
  BackgroundExport background(exporter(model, recipe, finished));
  EXPECT_EQ(background.finish_up_to(1), finished);
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

}  // namespace
}  // namespace gptq::test
