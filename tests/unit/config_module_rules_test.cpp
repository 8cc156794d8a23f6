// Options of single layers: dynamic, module_bits, and the texts of best_of.
#include "config/module_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/config_support.h"

namespace gptq {
namespace {

using config_test::JobFile;
using config_test::kValid;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

/// Reads a job whose recipe is `lines`; a job with model and recipe starts at line 3.
QuantizationSection recipe(const std::string& lines, const std::vector<std::string>& overrides = {}) {
  return read_job(JobFile(std::string(kValid) + "quantization:\n" + lines).path(), overrides).quantization;
}

std::vector<std::string> mistakes(const std::string& lines, const std::vector<std::string>& overrides = {}) {
  return config_test::mistakes_of(JobFile(std::string(kValid) + "quantization:\n" + lines).path(), overrides);
}

TEST(ModuleRules, KeepTheirOrderAndTheirValues) {
  const QuantizationSection section = recipe(
      "  dynamic:\n"
      "    '-:.*\\.0\\.': {}\n"
      "    '+:.*down_proj': {bits: 8, group_size: -1, damp_percent: 1e-2}\n"
      "    '.*q_proj':\n      scale_search: mse\n      desc_act: true\n"
      "    'a.*':\n");
  ASSERT_EQ(section.dynamic.size(), 4u);
  EXPECT_EQ(section.dynamic[0].regex(), ".*\\.0\\.");
  EXPECT_TRUE(section.dynamic[0].keeps());
  EXPECT_EQ(section.dynamic[1].regex(), ".*down_proj");
  EXPECT_FALSE(section.dynamic[1].keeps());
  EXPECT_THAT(section.dynamic[1].values,
              ElementsAre(Pair("bits", "8"), Pair("group_size", "-1"), Pair("damp_percent", "0.01")));
  EXPECT_EQ(section.dynamic[2].pattern, ".*q_proj");
  EXPECT_THAT(section.dynamic[2].values, ElementsAre(Pair("scale_search", "mse"), Pair("desc_act", "true")));
  EXPECT_THAT(section.dynamic[3].values, IsEmpty()) << "matches, and so hides later rules";
}

TEST(ModuleRules, AllMistakesShowAtOnceWithTheirPlaces) {
  EXPECT_THAT(
      mistakes("  dynamic:\n"
               "    '.*a':\n"
               "      bitz: 4\n"
               "      bits: 9\n"
               "      wbits: 4\n"
               "      mse: 2.4\n"
               "      true_sequential: false\n"
               "      sym: yes\n"
               "      group_size:\n"
               "    '(': {bits: 4}\n"
               "    '-:.*b': {bits: 4}\n"
               "    '+:': {}\n"
               "    '.*a': {}\n"
               "    '.*c': 4\n"
               "    '.*d': {bits: 4, bits: 3}\n"
               "  module_bits: {down_proj: 1, up_proj: four, '': 4, gate_proj: [4]}\n"),
      ElementsAre(
          "FILE:5:7: quantization.dynamic..*a.bitz: unknown key; nearest valid key 'quantization.bits'",
          HasSubstr("FILE:6:13: quantization.dynamic..*a.bits: '9' is not allowed; valid: in [2, 8]"),
          "FILE:7:7: quantization.dynamic..*a.wbits: unknown key; nearest valid key 'quantization.bits'",
          HasSubstr("FILE:8:7: quantization.dynamic..*a.mse: unknown key; nearest valid key "
                    "'quantization.scale_search'"),
          HasSubstr("FILE:9:7: quantization.dynamic..*a.true_sequential: cannot be given for single layers; "
                    "valid: bits, trits, group_size"),
          HasSubstr("FILE:10:12: quantization.dynamic..*a.sym: expected true or false"),
          HasSubstr("FILE:11:7: quantization.dynamic..*a.group_size: has no value"),
          HasSubstr("FILE:12:5: quantization.dynamic.(: is no ECMAScript regex"),
          HasSubstr("FILE:13:5: quantization.dynamic.-:.*b: a rule with -: keeps layers as they are"),
          HasSubstr("FILE:14:5: quantization.dynamic.+:: a rule needs a regex"),
          HasSubstr("FILE:15:5: quantization.dynamic..*a: is given twice"),
          HasSubstr("FILE:16:12: quantization.dynamic..*c: must be a map of settings"),
          HasSubstr("FILE:17:22: quantization.dynamic..*d.bits: is given twice"),
          HasSubstr("FILE:18:28: quantization.module_bits.down_proj: '1' is not allowed"),
          HasSubstr(
              "FILE:18:40: quantization.module_bits.up_proj: expected an integer: in [2, 8], got 'four'"),
          HasSubstr("FILE:18:46: quantization.module_bits: an empty name"),
          HasSubstr("FILE:18:64: quantization.module_bits.gate_proj: expected an integer")));
}

TEST(ModuleRules, MustBeMaps) {
  EXPECT_THAT(
      mistakes("  dynamic: [a]\n"),
      ElementsAre(HasSubstr("expected a map from regexes to settings, got a list; write {\"REGEX\"")));
  EXPECT_THAT(mistakes("  module_bits: 8\n"),
              ElementsAre(HasSubstr("expected a map from module names to integers: in [2, 8], got '8'")));
  EXPECT_THAT(mistakes("  dynamic:\n"), ElementsAre(HasSubstr("has no value")));
  EXPECT_THAT(mistakes("  module_bits: {a: 4, a: 5}\n"),
              ElementsAre(HasSubstr("FILE:3:23: quantization.module_bits.a: is given twice")));
}

TEST(ModuleRules, ExclusiveValuesOfARuleAreRefused) {
  EXPECT_THAT(
      mistakes("  dynamic:\n    '.*q': {desc_act: true, act_group_aware: true}\n    'k': {trits: true, "
               "bits: 4}\n"),
      ElementsAre(HasSubstr("'.*q': act_group_aware: cannot be true together with desc_act: true"),
                  HasSubstr("'k': bits: cannot be 4 together with trits: true")));
  EXPECT_THAT(mistakes("  method: rtn\n  dynamic: {q: {scale_search: weighted}}\n"),
              ElementsAre(HasSubstr("'q': scale_search: weighted needs a Hessian")));
}

TEST(ModuleRules, ComeFromOverridesToo) {
  const QuantizationSection section =
      recipe("  bits: 4\n  module_bits: {up_proj: 3}\n",
             {"quantization.module_bits.down_proj=8", "quantization.module_bits.model.layers.0.mlp.up_proj=6",
              "quantization.dynamic={'-:.*(?=q_proj)': {}, '.*': {bits: 2}}"});
  EXPECT_THAT(section.module_bits,
              ElementsAre(Pair("down_proj", 8), Pair("model.layers.0.mlp.up_proj", 6), Pair("up_proj", 3)));
  ASSERT_EQ(section.dynamic.size(), 2u);
  EXPECT_EQ(section.dynamic[0].regex(), ".*(?=q_proj)");
  EXPECT_THAT(
      recipe("  bits: 4\n  module_bits: {up_proj: 3}\n", {"quantization.module_bits={a: 8}"}).module_bits,
      ElementsAre(Pair("a", 8)))
      << "a whole map replaces the file's";
}

TEST(ModuleRules, WrongOverridesAreExplained) {
  EXPECT_THAT(
      mistakes("  bits: 4\n", {"quantization.module_bits.down_proj=9"}),
      ElementsAre(HasSubstr("quantization.module_bits.down_proj: '9' is not allowed; valid: in [2, 8]")));
  EXPECT_THAT(mistakes("  bits: 4\n", {"quantization.module_bits=8"}),
              ElementsAre(HasSubstr("expected a map from module names to integers")));
  EXPECT_THAT(mistakes("  bits: 4\n", {"quantization.dynamic..*q.bits=8"}),
              ElementsAre(HasSubstr("takes its rules together: --set 'quantization.dynamic={\"REGEX\"")));
  EXPECT_THAT(
      mistakes("  bits: 4\n", {"quantization.dynamic={q: {bitz: 8}}"}),
      ElementsAre("--set quantization.dynamic={q: {bitz: 8}}: quantization.dynamic.q.bitz: unknown key; "
                  "nearest valid key 'quantization.bits'"));
  EXPECT_THAT(mistakes("  bits: 4\n", {"quantization.bits.x=8"}), ElementsAre(HasSubstr("unknown key")));
}

TEST(ModuleRules, NestedNamesMeanTheSame) {
  EXPECT_THAT(recipe("  modules_in_block_to_quantize: [[self_attn.q_proj, self_attn.k_proj], mlp.up_proj]\n")
                  .modules_in_block_to_quantize,
              ElementsAre("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"));
}

TEST(Settings, ReplaceValuesAndWhatTheyExclude) {
  QuantizationSection section;
  EXPECT_EQ(with_settings(section, {}), section);
  const QuantizationSection finer = with_settings(section, {{"bits", "8"}, {"group_size", "32"}});
  EXPECT_EQ(finer.bits, 8);
  EXPECT_EQ(finer.group_size, 32);
  EXPECT_FALSE(with_settings(section, {{"desc_act", "true"}}).act_group_aware);
  section.desc_act = true;
  section.act_group_aware = false;
  EXPECT_FALSE(with_settings(section, {{"act_group_aware", "true"}}).desc_act);
  section.trits = true;
  section.bits = 2;
  EXPECT_FALSE(with_settings(section, {{"bits", "4"}}).trits)
      << "a layer of 4 bits among layers of three levels";
  section.per_channel = false;
  section.group_size = -1;
  EXPECT_TRUE(with_settings(section, {{"group_size", "64"}}).per_channel);
  EXPECT_THROW(with_settings(section, {{"bits", "9"}}), UsageError);
  EXPECT_THROW(with_settings(section, {{"nothing", "9"}}), UsageError);
  EXPECT_THROW(with_settings(section, {{"trits", "true"}, {"bits", "3"}}), UsageError);
}

TEST(Settings, TextsOfCandidates) {
  EXPECT_EQ(settings_problem("scale_search=mse mse_norm=2.4"), "");
  EXPECT_THAT(parse_settings(" scale_search=mse  mse_norm=2.4 "),
              ElementsAre(Pair("scale_search", "mse"), Pair("mse_norm", "2.4")));
  QuantizationSection section;
  const QuantizationSection candidate =
      with_settings(section, parse_settings("scale_search=mse mse_norm=2.4"));
  EXPECT_EQ(candidate.scale_search, "mse");
  EXPECT_EQ(candidate.mse_norm, 2.4);
  EXPECT_EQ(candidate.damp_percent, section.damp_percent);
  EXPECT_THAT(settings_problem("group_size=32"), HasSubstr("cannot be given for a candidate"));
  EXPECT_THAT(settings_problem("mse_norm=2.4 mse_nrom=2"),
              HasSubstr("nearest valid key 'quantization.mse_norm'"));
}

}  // namespace
}  // namespace gptq
