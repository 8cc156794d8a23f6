#include <gtest/gtest.h>

#include "base/error.h"
#include "quant/recipe.h"

namespace gptq {
namespace {

QuantizationSection lists(std::vector<std::string> include, std::vector<std::string> exclude) {
  QuantizationSection section;
  section.include = std::move(include);
  section.exclude = std::move(exclude);
  return section;
}

constexpr const char* kDown = "model.layers.3.mlp.down_proj";

TEST(Recipe, SelectsEverythingByDefault) {
  EXPECT_TRUE(Recipe(lists({}, {})).selects(kDown));
}

TEST(Recipe, NamesRegexesAndNamesInsideTheBlock) {
  for (const char* text : {kDown, "mlp.down_proj", "down_proj$", "layers\\.[0-4]\\."}) {
    EXPECT_TRUE(Recipe(lists({text}, {})).selects(kDown)) << text;
    EXPECT_FALSE(Recipe(lists({}, {text})).selects(kDown)) << text;
  }
  for (const char* text : {"model.layers.30.mlp.down_proj", "mlp.up_proj", "layers\\.[5-9]\\."}) {
    EXPECT_FALSE(Recipe(lists({text}, {})).selects(kDown)) << text;
    EXPECT_TRUE(Recipe(lists({}, {text})).selects(kDown)) << text;
  }
}

TEST(Recipe, ExclusionWins) {
  EXPECT_FALSE(Recipe(lists({"mlp"}, {"down"})).selects(kDown));
}

TEST(Recipe, BadRegexNamesItsListAndText) {
  try {
    const Recipe recipe(lists({}, {"mlp.(down"}));
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("quantization.exclude"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("mlp.(down"), std::string::npos) << error.what();
  }
}

TEST(Recipe, SolveOptionsFollowTheSection) {
  QuantizationSection section;
  section.bits = 3;
  section.sym = false;
  section.scale_search = "mse";
  section.mse_norm = 2.4;
  section.mse_grid = 50;
  section.max_shrink = 0.5;
  section.static_groups = true;
  const SolveOptions options = solve_options(section);
  EXPECT_EQ(options.bits, 3);
  EXPECT_FALSE(options.sym);
  EXPECT_EQ(options.search, SolveOptions::Search::mse);
  EXPECT_EQ(options.norm, 2.4);
  EXPECT_EQ(options.grid, 50);
  EXPECT_EQ(options.max_shrink, 0.5);
  EXPECT_FALSE(options.refit_every_group);
  section.scale_search = "minmax";
  EXPECT_EQ(solve_options(section).search, SolveOptions::Search::minmax);
}

}  // namespace
}  // namespace gptq
