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

TEST(Recipe, ChosenBlocksAndModules) {
  QuantizationSection section;
  section.num_layers = 3;
  EXPECT_FALSE(Recipe(section).selects(kDown)) << "block 3 is the fourth";
  section.num_layers = 4;
  EXPECT_TRUE(Recipe(section).selects(kDown));
  section.modules_in_block_to_quantize = {"self_attn.q_proj"};
  EXPECT_FALSE(Recipe(section).selects(kDown));
  section.modules_in_block_to_quantize = {"self_attn.q_proj", "mlp.down_proj"};
  EXPECT_TRUE(Recipe(section).selects(kDown));
  section.modules_in_block_to_quantize = {"down_proj"};
  EXPECT_FALSE(Recipe(section).selects(kDown)) << "names inside a block are whole";
}

TEST(Recipe, FirstRuleThatMatchesWins) {
  QuantizationSection section;
  section.dynamic = {{"-:.*\\.3\\.mlp", {}},
                     {"+:.*down_proj", {{"bits", "8"}, {"group_size", "32"}}},
                     {".*mlp", {{"bits", "2"}, {"desc_act", "true"}}},
                     {"mlp", {{"bits", "3"}}}};
  const Recipe recipe(section);
  EXPECT_FALSE(recipe.selects(kDown));
  EXPECT_TRUE(recipe.selects("model.layers.4.mlp.down_proj"));
  EXPECT_EQ(recipe.section_of("model.layers.4.mlp.down_proj").bits, 8);
  EXPECT_EQ(recipe.section_of("model.layers.4.mlp.down_proj").group_size, 32);
  const QuantizationSection up = recipe.section_of("model.layers.4.mlp.up_proj");
  EXPECT_EQ(up.bits, 2);
  EXPECT_EQ(up.group_size, 128);
  EXPECT_TRUE(up.desc_act);
  EXPECT_FALSE(up.act_group_aware);
  EXPECT_EQ(recipe.section_of("model.layers.4.self_attn.q_proj"), section) << "no rule names it";
}

TEST(Recipe, RulesMatchFromTheStartOfTheName) {
  QuantizationSection section;
  section.dynamic = {{"layers\\.4", {{"bits", "8"}}}, {"model\\.layers\\.4", {{"bits", "3"}}}};
  EXPECT_EQ(Recipe(section).section_of("model.layers.4.mlp.up_proj").bits, 3);
}

TEST(Recipe, ModuleBeatsMlpBeatsDefault) {
  QuantizationSection section;
  section.mlp_bits = 3;
  section.mlp_group_size = 64;
  section.module_bits = {
      {"down_proj", 8}, {"layers.4.mlp.down_proj", 6}, {"model.layers.5.mlp.down_proj", 2}};
  const Recipe recipe(section);
  EXPECT_EQ(recipe.section_of("model.layers.3.self_attn.q_proj").bits, 4);
  EXPECT_EQ(recipe.section_of("model.layers.3.self_attn.q_proj").group_size, 128);
  EXPECT_EQ(recipe.section_of("model.layers.3.mlp.up_proj").bits, 3);
  EXPECT_EQ(recipe.section_of("model.layers.3.mlp.up_proj").group_size, 64);
  EXPECT_EQ(recipe.section_of(kDown).bits, 8);
  EXPECT_EQ(recipe.section_of(kDown).group_size, 64);
  EXPECT_EQ(recipe.section_of("model.layers.4.mlp.down_proj").bits, 6) << "the longest name wins";
  EXPECT_EQ(recipe.section_of("model.layers.14.mlp.down_proj").bits, 8) << "only whole parts count";
  EXPECT_EQ(recipe.section_of("model.layers.5.mlp.down_proj").bits, 2);
  section.dynamic = {{".*down_proj", {{"bits", "5"}}}};
  EXPECT_EQ(Recipe(section).section_of(kDown).bits, 5) << "a rule wins over all of them";
  EXPECT_EQ(Recipe(section).section_of(kDown).group_size, 64);
}

TEST(Recipe, HeadIsQuantizedOnlyWhereAskedFor) {
  QuantizationSection section;
  EXPECT_FALSE(Recipe(section).quantizes_head());
  section.lm_head = true;
  section.include = {"down_proj"};
  EXPECT_TRUE(Recipe(section).quantizes_head());
  section.dynamic = {{"lm_head", {{"bits", "8"}}}};
  EXPECT_TRUE(Recipe(section).quantizes_head());
  EXPECT_EQ(Recipe(section).section_of("lm_head").bits, 8);
  section.dynamic = {{"-:lm_head", {}}};
  EXPECT_FALSE(Recipe(section).quantizes_head());
  section.dynamic.clear();
  section.exclude = {"lm_head"};
  EXPECT_FALSE(Recipe(section).quantizes_head());
}

TEST(Recipe, LayersShareColumnsWhereTheirOrderGroupsAndDampingAgree) {
  const QuantizationSection plain;
  QuantizationSection other = plain;
  other.bits = 8;
  other.sym = false;
  other.scale_search = "mse";
  EXPECT_TRUE(same_columns(plain, other));
  const auto differs = [&](auto change) {
    QuantizationSection changed = plain;
    change(changed);
    return !same_columns(plain, changed);
  };
  EXPECT_TRUE(differs([](auto& s) { s.group_size = 64; }));
  EXPECT_TRUE(differs([](auto& s) { s.desc_act = true; }));
  EXPECT_TRUE(differs([](auto& s) { s.act_group_aware = false; }));
  EXPECT_TRUE(differs([](auto& s) { s.static_groups = true; }));
  EXPECT_TRUE(differs([](auto& s) { s.damp_percent = 0.01; }));
  EXPECT_TRUE(differs([](auto& s) { s.damp_auto_increment = 0; }));
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
