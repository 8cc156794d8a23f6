// Reading a job: every kind of mistake, several at once, with the exact place of each.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "unit/config_support.h"

namespace gptq {
namespace {

using config_test::JobFile;
using config_test::kValid;
using testing::ElementsAre;
using testing::HasSubstr;

/// The lines of the UsageError that reading gives, less its first one; empty if the job is fine. "FILE"
/// stands for the file's path.
std::vector<std::string> mistakes(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return config_test::mistakes_of(JobFile(yaml).path(), overrides);
}

/// The mistakes of a job that is fine but for the lines appended under `quantization:`.
std::vector<std::string> recipe_mistakes(const std::string& lines) {
  return mistakes(std::string(kValid) + "quantization:\n" + lines);
}

TEST(ConfigReader, ReadsEveryType) {
  const JobFile file(
      "model: {path: /models/a}\n"
      "calibration:\n  path: cal.h5\n  num_samples: 64\n"
      "quantization:\n  bits: 3\n  group_size: -1\n  sym: false\n  damp_percent: 1e-2\n  mse_norm: +2.5\n"
      "  scale_search: mse\n  include: [q_proj, 'layers\\.[0-3]\\.']\n  exclude:\n    - o_proj\n"
      "compute:\n  threads: 7\n"
      "output:\n  max_shard_bytes: 9000000000\n  path: \"out dir\"\n");
  const JobConfig job = read_job(file.path(), {});
  EXPECT_EQ(job.model.path, "/models/a");
  EXPECT_EQ(job.calibration.num_samples, 64);
  EXPECT_EQ(job.quantization.bits, 3);
  EXPECT_EQ(job.quantization.group_size, -1);
  EXPECT_FALSE(job.quantization.sym);
  EXPECT_DOUBLE_EQ(job.quantization.damp_percent, 0.01);
  EXPECT_DOUBLE_EQ(job.quantization.mse_norm, 2.5);
  EXPECT_EQ(job.quantization.scale_search, "mse");
  EXPECT_THAT(job.quantization.include, ElementsAre("q_proj", "layers\\.[0-3]\\."));
  EXPECT_THAT(job.quantization.exclude, ElementsAre("o_proj"));
  EXPECT_EQ(job.compute.threads, 7);
  EXPECT_EQ(job.output.max_shard_bytes, 9'000'000'000);
  EXPECT_EQ(job.output.path, "out dir");
  EXPECT_EQ(job.quantization.mse_grid, QuantizationSection{}.mse_grid)
      << "a key that is not given keeps its default";
}

TEST(ConfigReader, NumbersThatTheProgramMayChooseTakeAuto) {
  const auto job_of = [](const std::string& lines) {
    const JobFile file(std::string(kValid) + "parallel:\n" + lines);
    return read_job(file.path(), {});
  };
  EXPECT_EQ(job_of("  stages: 2\n  replicas: auto\n").parallel.stages, 2);
  EXPECT_EQ(job_of("  stages: 2\n  replicas: auto\n").parallel.replicas, 0);
  EXPECT_EQ(job_of("  stages: auto\n").parallel.stages, 0);
  EXPECT_THAT(mistakes(std::string(kValid) + "parallel:\n  stages: 0\n  replicas: many\n  solvers: root\n"),
              ElementsAre("FILE:3:11: parallel.stages: '0' is not allowed; valid: auto or at least 1",
                          "FILE:4:13: parallel.replicas: expected an integer: auto or at least 1, got 'many'",
                          "FILE:5:12: parallel.solvers: 'root' is not allowed; valid: auto, world or stage"));
  EXPECT_THAT(mistakes(std::string(kValid) + "compute:\n  threads: auto\n"),
              ElementsAre(HasSubstr("write decimal digits only")));
}

TEST(ConfigReader, SectionWithoutKeysMeansDefaults) {
  EXPECT_THAT(mistakes(std::string(kValid) + "eval:\n  # data: [a.h5]\n"), ElementsAre());
}

TEST(ConfigReader, ReportsAllMistakesAtOnceWithTheirPlaces) {
  const auto lines = mistakes(
      "modell:\n"
      "  path: /x\n"
      "quantization:\n"
      "  wbits: 4\n"
      "  bits: 9\n"
      "  damp_percent: 1.5\n"
      "  sym: yes\n"
      "  group_sise: 64\n"
      "bits: 4\n"
      "log: {level: info, progress: bars}\n",
      {"quantization.bitz=3", "compute.threads=many"});
  EXPECT_THAT(
      lines,
      ElementsAre(
          "FILE:1:1: modell: is no section of a job; nearest valid key 'model'",
          "FILE:4:3: quantization.wbits: unknown key; nearest valid key 'quantization.bits'",
          "FILE:5:9: quantization.bits: '9' is not allowed; valid: in [2, 8]: codes of more than 8 bits have "
          "no "
          "place in the format (its loaders stop there), and for fewer than 2 there is trits: true",
          "FILE:6:17: quantization.damp_percent: '1.5' is not allowed; valid: in (0, 1)",
          "FILE:7:8: quantization.sym: expected true or false, got 'yes'; write true or false",
          "FILE:8:3: quantization.group_sise: unknown key; nearest valid key 'quantization.group_size'",
          "FILE:9:1: bits: is no section of a job; nearest valid key 'quantization.bits'",
          "FILE:10:30: log.progress: 'bars' is not allowed; valid: auto, bar, lines or none",
          "--set quantization.bitz=3: quantization.bitz: unknown key; nearest valid key 'quantization.bits'",
          "--set compute.threads=many: compute.threads: expected an integer: in [0, 65536], got 'many'; "
          "write decimal digits only"));
}

TEST(ConfigReader, SaysHowManyMistakesThereAre) {
  const JobFile file("model: {path: x, a: 1, b: 2}\n");
  try {
    read_job(file.path(), {});
    FAIL() << "read_job took unknown keys";
  } catch (const UsageError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::bad_usage);
    EXPECT_THAT(error.what(), HasSubstr("2 mistakes"));
  }
}

TEST(ConfigReader, ForeignNamesAreSuggestedNeverAccepted) {
  const auto suggested = [](const std::string& section, const std::string& name) {
    const auto lines = mistakes(std::string(kValid) + section + ":\n  " + name + ": 1\n");
    return lines.size() == 1 ? lines.front() : "not one mistake";
  };
  for (const auto& [section, name, key] : std::vector<std::array<std::string, 3>>{
           {"quantization", "wbits", "quantization.bits"},
           {"quantization", "groupsize", "quantization.group_size"},
           {"quantization", "damp", "quantization.damp_percent"},
           {"quantization", "actorder", "quantization.desc_act"},
           {"quantization", "act_order", "quantization.desc_act"},
           {"quantization", "Act-Order", "quantization.desc_act"},
           {"quantization", "nsamples", "calibration.num_samples"},
           {"calibration", "nsamples", "calibration.num_samples"},
           {"calibration", "num_sample", "calibration.num_samples"},
           {"calibration", "threads", "compute.threads"},
           {"quantization", "tru_sequentail", "quantization.true_sequential"}}) {
    EXPECT_THAT(suggested(section, name), HasSubstr("unknown key; nearest valid key '" + key + "'"));
  }
  EXPECT_THAT(suggested("calibration", "seqlen"), HasSubstr("tools/prepare_calibration.py"));
  EXPECT_THAT(suggested("calibration", "batch_size"), HasSubstr("the same result on any number of ranks"));
  EXPECT_THAT(suggested("compute", "micro_batch"), HasSubstr("samples are computed one by one or in chunks"));
  EXPECT_THAT(suggested("quantization", "block_size"), HasSubstr("changes its speed and no result"));
  EXPECT_THAT(suggested("quantization", "max_fallbacks"), HasSubstr("'fallback.max_layers'"));
  EXPECT_THAT(suggested("quantization", "mse"),
              HasSubstr("'quantization.scale_search': with mse_norm for the exponent"));
  EXPECT_THAT(suggested("log", "zzzzzzzz"), HasSubstr("valid in 'log': level, progress"));
}

TEST(ConfigReader, DottedKeysInTheFileAreExplained) {
  EXPECT_THAT(mistakes(std::string(kValid) + "quantization.bits: 3\n"),
              ElementsAre("FILE:2:1: quantization.bits: is no section of a job; keys are nested: write "
                          "'quantization:' and, indented below it, 'bits: ...'"));
}

struct WrongValue {
  const char* line;
  const char* message;
};

TEST(ConfigReader, WrongTypesAndRanges) {
  for (const auto& [line, message] : std::vector<WrongValue>{
           {"bits: 4.0", "expected an integer: in [2, 8], got '4.0'"},
           {"bits: \"4\"", "got the text \"4\"; remove the quotes"},
           {"bits: [4]", "got a list"},
           {"bits: {a: 4}", "got a map"},
           {"bits: 0x4", "got '0x4'"},
           {"bits: 04", "got '04'"},
           {"bits:",
            "has no value; give it one (an integer: in [2, 8]), or remove the line for the default 4"},
           {"bits: ~", "has no value"},
           {"bits: ''", "expected an integer"},
           {"mse_grid: 1_000", "write decimal digits only"},
           {"mse_grid: 1", "valid: in [2, 10000]"},
           {"mse_grid: 10001", "valid: in [2, 10000]"},
           {"group_size: 0", "'0' is not allowed; valid: -1 or at least 1"},
           {"group_size: -2", "valid: -1 or at least 1"},
           {"group_size: 9223372036854775808", "does not fit into 64 bits"},
           {"bits: 1", "for fewer than 2 there is trits: true"},
           {"bits: 16", "codes of more than 8 bits have no place in the format"},
           {"mlp_bits: 1", "'1' is not allowed; valid: 0 or in [2, 8]"},
           {"mlp_group_size: -2", "valid: -1, 0 or at least 1"},
           {"num_layers: -1", "valid: at least 0"},
           {"trits: 1.58", "write true or false"},
           {"modules_in_block_to_quantize: self_attn.q_proj", "expected a list of module names"},
           {"modules_in_block_to_quantize: [[[a]]]", "got a list"},
           {"best_of: ['mse_norm']", "'mse_norm' must be key=value"},
           {"best_of: ['bits=3']", "cannot be given for a candidate; valid: damp_percent,"},
           {"best_of: ['mse_norm=9']", "'9' is not allowed; valid: in (0, 8]"},
           {"best_of: ['mse_norm=2 mse_norm=3']", "is given twice"},
           {"best_of: ['  ']", "holds no setting"},
           {"damp_percent: 0", "valid: in (0, 1)"},
           {"damp_percent: 1", "valid: in (0, 1)"},
           {"damp_percent: .nan", "expected a number: in (0, 1), got '.nan'"},
           {"damp_percent: nan", "expected a number"},
           {"damp_percent: .inf", "expected a number"},
           {"damp_percent: 1e999", "too large or too small"},
           {"damp_percent: 5%", "expected a number"},
           {"damp_percent: 0,05", "expected a number"},
           {"damp_percent: true", "expected a number"},
           {"damp_auto_increment: -0.01", "valid: in [0, 1)"},
           {"mse_norm: 0", "valid: in (0, 8]"},
           {"mse_norm: 8.001", "valid: in (0, 8]"},
           {"max_shrink: 1.0", "valid: in (0, 1)"},
           {"sym: True", "write true or false"},
           {"sym: on", "write true or false"},
           {"sym: 1", "write true or false"},
           {"sym: \"true\"", "remove the quotes"},
           {"method: awq", "'awq' is not allowed; valid: gptq or rtn"},
           {"scale_search: [mse]", "got a list"},
           {"scale_search: MSE", "valid: minmax, mse or weighted"},
           {"exclude: lm_head", "expected a list of module names or regexes, got 'lm_head'; write [a, b]"},
           {"exclude: [a, [b]]", "got a list"},
           {"exclude: [a, ~]", "has no value"},
           {"exclude: ['']", "an empty text in a list means nothing"},
           {"exclude: ['(a']", "neither a module name nor an ECMAScript regex"},
           {"exclude:", "has no value"},
           {"bits: !!int 4", "the tag 'tag:yaml.org,2002:int' has no meaning"}}) {
    const auto lines = recipe_mistakes(std::string("  ") + line + "\n");
    ASSERT_EQ(lines.size(), 1u) << line << "\n" << testing::PrintToString(lines);
    EXPECT_THAT(lines.front(), HasSubstr(message)) << line;
    EXPECT_THAT(lines.front(), HasSubstr("FILE:3:")) << line;
  }
}

TEST(ConfigReader, LimitsThemselvesAreAllowed) {
  for (const char* line :
       {"mse_grid: 2", "mse_grid: 10000", "mse_norm: 8", "damp_auto_increment: 0", "group_size: 1",
        "group_size: -1", "bits: 2", "bits: 8", "damp_percent: .5", "damp_percent: 1E-2"}) {
    EXPECT_THAT(recipe_mistakes(std::string("  ") + line + "\n"), ElementsAre()) << line;
  }
}

TEST(ConfigReader, VeryLongRegexIsRefused) {
  EXPECT_THAT(recipe_mistakes("  exclude: ['" + std::string(100'000, '(') + "']\n"),
              ElementsAre(HasSubstr("at most 1000 are allowed")));
}

TEST(ConfigReader, KeysGivenTwice) {
  EXPECT_THAT(mistakes(std::string(kValid) + "log:\n  level: info\n  level: warn\nlog: {progress: none}\n"),
              ElementsAre("FILE:4:3: log.level: is given twice, first at FILE:3:3; keep one",
                          "FILE:5:1: log: is given twice, first at FILE:2:1; keep one"));
}

TEST(ConfigReader, MissingModel) {
  const auto required = [](const std::string& place) {
    return place + ": model.path: is required: the Hugging Face directory of the source model";
  };
  EXPECT_THAT(mistakes("log:\n  level: info\n"), ElementsAre(required("FILE:1:1")));
  EXPECT_THAT(mistakes("log: {}\nmodel: {}\n"), ElementsAre(required("FILE:2:1")));
  EXPECT_THAT(mistakes("model: {path: ''}\n"), ElementsAre(required("FILE:1:1")));
  EXPECT_THAT(mistakes("log: {}\n", {"model.path=/m"}), ElementsAre());
}

TEST(ConfigReader, SectionsMustBeMaps) {
  EXPECT_THAT(mistakes(std::string(kValid) + "compute: [a]\nlog: info\n"),
              ElementsAre("FILE:2:10: compute: must be a map: write its keys indented below it",
                          "FILE:3:6: log: must be a map: write its keys indented below it"));
}

TEST(ConfigReader, BothColumnOrders) {
  EXPECT_THAT(
      recipe_mistakes("  desc_act: true\n  act_group_aware: true\n"),
      ElementsAre("FILE:4:20: quantization.act_group_aware: cannot be true together with desc_act: true "
                  "(FILE:3:13); set one of them to false"));
  EXPECT_THAT(mistakes(std::string(kValid) + "quantization: {act_group_aware: true}\n",
                       {"quantization.desc_act=true"}),
              ElementsAre(HasSubstr("(--set quantization.desc_act=true); set one of them to false")));
}

TEST(ConfigReader, DescActAloneTurnsGroupAwareOrderOff) {
  const JobFile file(std::string(kValid) + "quantization: {desc_act: true}\n");
  EXPECT_FALSE(read_job(file.path(), {}).quantization.act_group_aware);
  EXPECT_TRUE(read_job(file.path(), {"quantization.desc_act=false"}).quantization.act_group_aware);
}

TEST(ConfigReader, RoundToNearestNeedsNoHessian) {
  EXPECT_EQ(read_job(JobFile(std::string(kValid) + "quantization: {method: rtn}\n").path(), {})
                .quantization.scale_search,
            "minmax");
  EXPECT_THAT(recipe_mistakes("  method: rtn\n  scale_search: weighted\n  desc_act: true\n"),
              ElementsAre(HasSubstr("FILE:5:13: quantization.desc_act: needs a Hessian"),
                          HasSubstr("FILE:4:17: quantization.scale_search: weighted needs a Hessian")));
}

TEST(ConfigReader, RoundToNearestTakesNothingThatNeedsAHessian) {
  for (const char* line : {"token_weight: residual", "refine_sweeps: 2", "correction_alpha: 0.5",
                           "best_of: [\"scale_search=mse\"]"}) {
    EXPECT_THAT(recipe_mistakes(std::string("  method: rtn\n  ") + line + "\n"),
                ElementsAre(HasSubstr("needs a Hessian, which method rtn does not make; set")))
        << line;
  }
}

TEST(ConfigReader, ThreeLevelsAreStoredAtTwoBits) {
  EXPECT_EQ(
      read_job(JobFile(std::string(kValid) + "quantization: {trits: true}\n").path(), {}).quantization.bits,
      2);
  EXPECT_THAT(recipe_mistakes("  trits: true\n  bits: 2\n"), ElementsAre());
  EXPECT_THAT(
      recipe_mistakes("  trits: true\n  bits: 4\n"),
      ElementsAre("FILE:4:9: quantization.bits: cannot be 4 together with trits: true (FILE:3:10); three "
                  "levels are stored at 2 bits: leave bits out"));
}

TEST(ConfigReader, OneScaleATensorLeavesNoGroups) {
  EXPECT_EQ(read_job(JobFile(std::string(kValid) + "quantization: {per_channel: false}\n").path(), {})
                .quantization.group_size,
            -1);
  EXPECT_THAT(recipe_mistakes("  per_channel: false\n  group_size: 64\n"),
              ElementsAre(HasSubstr("cannot be 64 together with per_channel: false (FILE:3:16)")));
}

std::string checkpoint_format(const std::string& lines) {
  return read_job(JobFile(kValid + lines).path(), {}).output.checkpoint_format;
}

TEST(ConfigReader, LayersOfFiveToSevenBitsAreStoredInPlanes) {
  EXPECT_EQ(checkpoint_format(""), "gptq");
  for (const char* recipe : {"bits: 5", "bits: 7", "mlp_bits: 6", "module_bits: {down_proj: 5}",
                             "dynamic: {'-:a': {}, '+:b': {bits: 8}, c: {bits: 6}}"}) {
    const std::string lines = std::string("quantization: {") + recipe + "}\n";
    EXPECT_EQ(checkpoint_format(lines), "gptq_p") << recipe;
    EXPECT_EQ(checkpoint_format(lines + "output: {checkpoint_format: gptq_p}\n"), "gptq_p") << recipe;
    for (const char* other : {"gptq", "gptq_v2"}) {
      EXPECT_THAT(mistakes(kValid + lines + "output: {checkpoint_format: " + other + "}\n"),
                  ElementsAre(HasSubstr("FILE:3:29: output.checkpoint_format: " + std::string(other) +
                                        " has no form for 5, 6 or 7 bits (quantization.")))
          << recipe;
    }
    EXPECT_THAT(mistakes(kValid + lines + "output: {quantization_config: mixed_gptq}\n"),
                ElementsAre(HasSubstr("OneComp reads 2, 3, 4 and 8 bits")))
        << recipe;
    EXPECT_EQ(checkpoint_format(lines + "output: {format: dequantized, checkpoint_format: gptq}\n"), "gptq")
        << "it has no effect there";
  }
  for (const char* recipe :
       {"bits: 3", "mlp_bits: 8", "module_bits: {down_proj: 2}", "dynamic: {c: {bits: 3}}"}) {
    const std::string lines = std::string("quantization: {") + recipe + "}\n";
    EXPECT_EQ(checkpoint_format(lines), "gptq") << recipe;
    EXPECT_EQ(checkpoint_format(lines + "output: {checkpoint_format: gptq_v2}\n"), "gptq_v2") << recipe;
    EXPECT_EQ(checkpoint_format(lines + "output: {checkpoint_format: gptq_p}\n"), "gptq_p") << recipe;
  }
  EXPECT_THAT(mistakes(std::string(kValid) +
                       "output: {quantization_config: mixed_gptq, checkpoint_format: gptq_p}\n"),
              ElementsAre(HasSubstr("none of them in checkpoint_format gptq_p; use gptq")));
}

TEST(ConfigReader, FilesThatAreNoJob) {
  EXPECT_THAT(config_test::mistakes_of("does/not/exist.yaml", {}),
              ElementsAre(HasSubstr("FILE: no such job file")));
  EXPECT_THAT(config_test::mistakes_of(testing::TempDir(), {}),
              ElementsAre(HasSubstr("FILE: is a directory")));
  EXPECT_THAT(mistakes(""), ElementsAre(HasSubstr("FILE: is empty")));
  EXPECT_THAT(mistakes("# nothing but a comment\n"), ElementsAre(HasSubstr("FILE: is empty")));
  EXPECT_THAT(mistakes("- a\n- b\n"), ElementsAre(HasSubstr("FILE:1:1: a job is a map of sections")));
  EXPECT_THAT(mistakes("just words\n"), ElementsAre(HasSubstr("FILE:1:1: a job is a map of sections")));
  EXPECT_THAT(mistakes(std::string("model\0: x", 9)), ElementsAre(HasSubstr("FILE: is not UTF-8 text")));
  EXPECT_THAT(mistakes("model: {path: \xff\xfe}\n"), ElementsAre(HasSubstr("FILE: is not UTF-8 text")));
  EXPECT_THAT(mistakes("#" + std::string(2 << 20, 'x')),
              ElementsAre(HasSubstr("FILE: is larger than 1 MiB")));
  EXPECT_THAT(mistakes(std::string(kValid) + "---\nlog: {}\n"),
              ElementsAre(HasSubstr("a second document starts here")));
  EXPECT_THAT(mistakes(std::string(100'000, '[')), ElementsAre(HasSubstr("nested too deeply")));
}

TEST(ConfigReader, SyntaxErrorsHaveAPlaceAndDoNotHideWrongOverrides) {
  EXPECT_THAT(mistakes("model:\n  path: [a\nlog: b\n", {"log.levl=info"}),
              ElementsAre(HasSubstr("FILE:3:"), HasSubstr("--set log.levl=info: log.levl: unknown key")));
  EXPECT_THAT(
      mistakes("model:\n\tpath: a\n"),
      ElementsAre(HasSubstr("FILE:2:6: is not valid YAML: illegal map value; indent with spaces, not tabs")));
}

TEST(ConfigReader, TextInWhichYamlCppFindsDocumentsWithoutEndIsRefused) {
  EXPECT_THAT(mistakes(",a"), ElementsAre(HasSubstr("FILE:1:1: from here on, this is no YAML")));
  EXPECT_THAT(mistakes(",: -", {"eval.data=,: -"}).size(), 2u);
}

TEST(ConfigReader, AliasesThatMultiplyAreRefused) {
  std::string bomb =
      std::string(kValid) + "quantization:\n  exclude: &a [" + std::string("x") + "]\n  dynamic:\n";
  std::string settings;
  for (int i = 0; i < 400; ++i) settings += fmt::format("{}k{}: 1", i == 0 ? "" : ", ", i);
  bomb += "    r: &b {" + settings + "}\n";
  for (int i = 0; i < 400; ++i) bomb += fmt::format("    r{}: *b\n", i);
  EXPECT_THAT(mistakes(bomb), testing::Contains(HasSubstr("values: this is no job")));
}

TEST(ConfigReader, AliasThatContainsItselfIsRead) {
  EXPECT_THAT(mistakes(std::string(kValid) + "log: &a\n  level: *a\n"), ElementsAre(HasSubstr("log.level")));
}

TEST(ConfigReader, OverridesAreCheckedLikeTheFile) {
  EXPECT_THAT(
      mistakes(kValid, {"quantization.bits=9"}),
      ElementsAre(HasSubstr(
          "--set quantization.bits=9: quantization.bits: '9' is not allowed; valid: in [2, 8]: codes")));
  EXPECT_THAT(mistakes(kValid, {"quantization.bits"}),
              ElementsAre(HasSubstr("--set quantization.bits: must be KEY=VALUE")));
  EXPECT_THAT(mistakes(kValid, {"=3"}), ElementsAre(HasSubstr("must be KEY=VALUE")));
  EXPECT_THAT(mistakes(kValid, {"bits=3"}), ElementsAre(HasSubstr("nearest valid key 'quantization.bits'")));
  EXPECT_THAT(mistakes(kValid, {"log=3"}), ElementsAre(HasSubstr("'log' is a section: write log.KEY=VALUE")));
  EXPECT_THAT(mistakes(kValid, {"eval.data=a.h5"}), ElementsAre(HasSubstr("expected a list of paths")));
  EXPECT_THAT(mistakes(kValid, {"eval.data=[a"}),
              ElementsAre(HasSubstr("--set eval.data=[a: is not valid YAML")));
  EXPECT_THAT(mistakes(kValid, {"quantization.bits="}), ElementsAre(HasSubstr("expected an integer")));
  EXPECT_THAT(mistakes(kValid, {"log.level=\xff"}), ElementsAre(HasSubstr("UTF-8")));
}

TEST(ConfigReader, OverridesWinInOrder) {
  const JobFile file(std::string(kValid) + "quantization: {bits: 8}\n");
  const JobConfig job =
      read_job(file.path(), {"quantization.bits=2", "eval.data=[a.h5, 'b c.h5']", "output.path=x: y #z",
                             "quantization.bits=3", "eval.model='quoted '"});
  EXPECT_EQ(job.quantization.bits, 3);
  EXPECT_THAT(job.eval.data, ElementsAre("a.h5", "b c.h5"));
  EXPECT_EQ(job.output.path, "x: y #z");
  EXPECT_EQ(job.eval.model, "quoted ");
}

TEST(ConfigReader, PathsAreExpanded) {
  setenv("GPTQ_TEST_PLACE", "/data", 1);
  setenv("HOME", "/home/me", 1);
  unsetenv("GPTQ_TEST_UNSET");
  const JobFile file("model: {path: '${GPTQ_TEST_PLACE}/m'}\noutput: {path: ~/out}\n");
  const JobConfig job =
      read_job(file.path(), {"eval.data=['~', 'a$${b}', 'a~b']", "quantization.exclude=['head$']"});
  EXPECT_EQ(job.model.path, "/data/m");
  EXPECT_EQ(job.output.path, "/home/me/out");
  EXPECT_THAT(job.eval.data, ElementsAre("/home/me", "a${b}", "a~b"));
  EXPECT_THAT(job.quantization.exclude, ElementsAre("head$")) << "a regex is no path";
  EXPECT_THAT(
      mistakes("model: {path: '${GPTQ_TEST_UNSET}/m'}\n"),
      ElementsAre(HasSubstr("FILE:1:15: model.path: the environment variable 'GPTQ_TEST_UNSET' is not set")));
  EXPECT_THAT(mistakes("model: {path: '${GPTQ'}\n"), ElementsAre(HasSubstr("lacks the closing brace")));
}

}  // namespace
}  // namespace gptq
