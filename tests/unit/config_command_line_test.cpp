// The command line: values, mistakes with exit code 2 and a suggestion, help and version.
#include "config/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "config/version.h"
#include "config/yaml_reader.h"

namespace gptq {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Parsed {
  CommandLine line;
  bool run = false;
  int exit_code = -1;
  std::string out, err;
};

Parsed parse(std::vector<std::string> words, bool speak = true) {
  words.insert(words.begin(), "gptq-hpc");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  Parsed parsed;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  parsed.run =
      parse_command_line(static_cast<int>(argv.size()), argv.data(), speak, parsed.line, parsed.exit_code);
  parsed.out = testing::internal::GetCapturedStdout();
  parsed.err = testing::internal::GetCapturedStderr();
  return parsed;
}

/// What is printed to stderr; the exit code must be that of bad usage.
std::string complaint(const std::vector<std::string>& words) {
  const Parsed parsed = parse(words);
  EXPECT_FALSE(parsed.run);
  EXPECT_EQ(parsed.exit_code, static_cast<int>(ExitCode::bad_usage));
  EXPECT_THAT(parsed.out, IsEmpty());
  return parsed.err;
}

TEST(CommandLine, EveryCommandWithItsValues) {
  Parsed parsed =
      parse({"quantize", "--set", "quantization.bits=3", "job.yaml", "--set=output.path=x", "--overwrite"});
  EXPECT_TRUE(parsed.run);
  EXPECT_THAT(parsed.out + parsed.err, IsEmpty());
  EXPECT_EQ(parsed.line.command, CommandLine::Command::quantize);
  EXPECT_EQ(parsed.line.job, "job.yaml");
  EXPECT_THAT(parsed.line.overrides, ElementsAre("quantization.bits=3", "output.path=x"));
  EXPECT_TRUE(parsed.line.overwrite);
  EXPECT_FALSE(parsed.line.fresh);
  EXPECT_TRUE(parse({"quantize", "job.yaml", "--fresh"}).line.fresh);

  parsed = parse({"plan", "job.yaml", "--ranks", "64", "--json", "plan.json"});
  EXPECT_TRUE(parsed.run);
  EXPECT_EQ(parsed.line.command, CommandLine::Command::plan);
  EXPECT_EQ(parsed.line.plan_ranks, 64);
  EXPECT_EQ(parsed.line.json, "plan.json");
  EXPECT_EQ(parsed.line.plan_device_memory, -1);
  for (const char* memory : {"80", "80G", "80gb", "0.08T"}) {
    EXPECT_DOUBLE_EQ(parse({"plan", "job.yaml", "--device-memory", memory}).line.plan_device_memory, 80);
  }
  EXPECT_EQ(parse({"plan", "job.yaml", "--device-memory", "0"}).line.plan_device_memory, 0);
  EXPECT_FALSE(parse({"plan", "job.yaml", "--device-memory", "-1"}).run);
  EXPECT_FALSE(parse({"plan", "job.yaml", "--device-memory", "80 parsecs"}).run);
  parsed = parse({"plan", "job.yaml", "--ranks-per-device", "2", "--device-rate", "600"});
  EXPECT_EQ(parsed.line.plan_ranks_per_device, 2);
  EXPECT_DOUBLE_EQ(parsed.line.plan_device_rate, 600);
  EXPECT_TRUE(parse({"plan", "job.yaml", "--machine", "m", "--scaling", "1..8", "--csv", "c.csv"}).run);
  EXPECT_FALSE(parse({"plan", "job.yaml", "--grid", "1x2"}).run) << "says nothing without --machine";
  EXPECT_FALSE(parse({"plan", "job.yaml", "--samples", "8x512"}).run);
  EXPECT_FALSE(parse({"plan", "job.yaml", "--machine", "m", "--csv", "c.csv"}).run);
  EXPECT_FALSE(parse({"plan", "job.yaml", "--machine", "m", "--device-memory", "80"}).run);
  EXPECT_FALSE(parse({"plan", "job.yaml", "--machine", "m", "--scaling", "1..8", "--ranks", "4"}).run);
  EXPECT_FALSE(parse({"plan", "job.yaml", "--machine", "m", "--measure", "here.yaml"}).run);

  parsed = parse({"eval", "job.yaml", "--model", "m", "--data", "a.h5", "b.h5", "--json", "out.json"});
  EXPECT_TRUE(parsed.run);
  EXPECT_EQ(parsed.line.command, CommandLine::Command::eval);
  EXPECT_EQ(parsed.line.eval_model, "m");
  EXPECT_THAT(parsed.line.eval_data, ElementsAre("a.h5", "b.h5"));

  parsed = parse({"inspect", "dir"});
  EXPECT_EQ(parsed.line.command, CommandLine::Command::inspect);
  EXPECT_EQ(parsed.line.path, "dir");
  parsed = parse({"verify", "dir", "--json", "v.json"});
  EXPECT_EQ(parsed.line.command, CommandLine::Command::verify);
  EXPECT_EQ(parsed.line.json, "v.json");
}

TEST(CommandLine, ListOverridesArriveWhole) {
  EXPECT_THAT(parse({"eval", "j", "--set", "eval.data=[a, b]"}).line.overrides,
              ElementsAre("eval.data=[a, b]"));
}

TEST(CommandLine, OptionsThatStandForKeys) {
  const Parsed parsed =
      parse({"eval", "j", "--set", "log.level=warn", "--model", "a \"b\"", "--data", "x,y.h5", "\"z\".h5"});
  EXPECT_THAT(overrides_of(parsed.line), ElementsAre("log.level=warn", "eval.model=\"a \\\"b\\\"\"",
                                                     "eval.data=[\"x,y.h5\", \"\\\"z\\\".h5\"]"));
  EXPECT_THAT(overrides_of(parse({"quantize", "j", "--overwrite"}).line),
              ElementsAre("output.overwrite=true"));
  EXPECT_THAT(overrides_of(parse({"quantize", "j"}).line), IsEmpty());
}

TEST(CommandLine, MistakesComeWithTheNearestName) {
  EXPECT_THAT(complaint({"quantise", "job.yaml"}),
              HasSubstr("unknown command 'quantise'; nearest command 'quantize'"));
  EXPECT_THAT(complaint({"job.yaml"}), HasSubstr("valid: plan, quantize, eval, inspect, verify"));
  EXPECT_THAT(complaint({}), HasSubstr("a command is missing"));
  EXPECT_THAT(complaint({"quantize", "job.yaml", "--overwrit"}), HasSubstr("nearest option '--overwrite'"));
  EXPECT_THAT(complaint({"eval", "job.yaml", "--modle=x"}),
              HasSubstr("unknown option '--modle' of eval; nearest option '--model'"));
  EXPECT_THAT(complaint({"--versoin"}), HasSubstr("nearest option '--version'"));
  EXPECT_THAT(complaint({"quantize"}),
              AllOf(HasSubstr("job is required"), HasSubstr("gptq-hpc quantize --help")));
  EXPECT_THAT(complaint({"quantize", "job.yaml", "quantization.bits=3"}), HasSubstr("write --set before"));
  EXPECT_THAT(complaint({"plan", "job.yaml", "--ranks", "0"}), HasSubstr("--ranks"));
  EXPECT_THAT(complaint({"plan", "job.yaml", "--ranks", "many"}), HasSubstr("--ranks"));
  EXPECT_THAT(complaint({"quantize", "a.yaml", "--set"}), HasSubstr("--set"));
  EXPECT_THAT(complaint({"inspect", "a", "b"}), HasSubstr("unexpected argument 'b' of inspect"));
}

TEST(CommandLine, HelpShowsAnExample) {
  for (const std::string command : {"plan", "quantize", "eval", "inspect", "verify"}) {
    const Parsed parsed = parse({command, "--help"});
    EXPECT_FALSE(parsed.run);
    EXPECT_EQ(parsed.exit_code, 0);
    EXPECT_THAT(parsed.out, AllOf(HasSubstr("Usage: gptq-hpc " + command), HasSubstr("Example:"),
                                  HasSubstr("gptq-hpc " + command + " ")));
    EXPECT_THAT(parse({"--help"}).out, HasSubstr(command));
  }
}

TEST(CommandLine, VersionNamesWhatItWasBuiltWith) {
  const Parsed parsed = parse({"--version"});
  EXPECT_FALSE(parsed.run);
  EXPECT_EQ(parsed.exit_code, 0);
  EXPECT_THAT(parsed.out, AllOf(HasSubstr("gptq-hpc " + version()), HasSubstr("MPI "), HasSubstr("HDF5 1"),
                                HasSubstr("oneDNN "), HasSubstr("backends: cpu")));
}

TEST(CommandLine, ReferencePrintsEveryKey) {
  EXPECT_EQ(parse({"--reference"}).out, reference_yaml());
}

TEST(CommandLine, OtherRanksAreSilent) {
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"--help"}, {"--version"}, {"nothing"}, {"quantize", "--help"}}) {
    const Parsed parsed = parse(words, false);
    EXPECT_THAT(parsed.out + parsed.err, IsEmpty());
    EXPECT_FALSE(parsed.run);
  }
  EXPECT_EQ(parse({"nothing"}, false).exit_code, 2) << "all ranks end alike";
}

}  // namespace
}  // namespace gptq
