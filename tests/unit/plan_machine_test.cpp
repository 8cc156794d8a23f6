#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "pipeline/machine.h"
#include "support/places.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kValid = R"(name: small
source: a test
startup: 0.3 s
node: {ranks: 2, cores: 2, memory: 24 GB}
device: {kind: cpu}
kernels:
  linear.bf16: [[1e7, 1e11], [1e9, 4e11]]
links: {node: {latency: 2 us, bandwidth: 6 GB/s, shared: 6 GB/s}}
files: {open: 1 ms, node: 3 GB/s, all: 40 GB/s, write_node: 1 GB/s, write_all: 20 GB/s, cached: 8 GB/s}
)";

class MachineFile : public testing::Test {
 protected:
  Machine read(const std::string& text) {
    const auto path = directory_.path() / "machine.yaml";
    std::ofstream(path) << text;
    return read_machine(path.string());
  }
  std::string mistakes(const std::string& text) {
    try {
      read(text);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  }
  static std::string changed(const std::string& what, const std::string& by) {
    std::string text = kValid;
    return text.replace(text.find(what), what.size(), by);
  }

  TempDirectory directory_;
};

TEST_F(MachineFile, IsReadWithItsUnits) {
  const Machine machine = read(kValid);
  EXPECT_EQ(machine.name, "small");
  EXPECT_EQ(machine.node.memory, 24'000'000'000);
  EXPECT_DOUBLE_EQ(machine.link.latency, 2e-6);
  EXPECT_DOUBLE_EQ(machine.files.all, 4e10);
  EXPECT_TRUE(machine.is_cpu());
  EXPECT_EQ(machine.provenance(), "NOT measured: a test");
}

TEST_F(MachineFile, SurvivesWritingAndReading) {
  Machine machine = read(kValid);
  machine.measured = {"plan --measure", "1.2", "2026-01-01"};
  machine.together = {1, 0.93};
  const std::string text = to_yaml(machine);
  const Machine again = read(text);
  EXPECT_EQ(to_yaml(again), text);
  EXPECT_EQ(again.together, machine.together);
  EXPECT_EQ(again.provenance(), "measured by plan --measure 1.2 on 2026-01-01");
  EXPECT_EQ(again.kernels.size(), 1u);
}

TEST_F(MachineFile, ShippedDescriptionsAreRightAndSayThatNothingWasMeasured) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(configs() / "machines")) {
    const Machine machine = read_machine(entry.path().string());
    EXPECT_EQ(machine.name, entry.path().stem().string());
    if (!machine.measured) {
      EXPECT_THAT(machine.provenance(), HasSubstr("NOT measured: "));
    }
    if (!machine.is_cpu()) {
      EXPECT_THAT(machine.source, HasSubstr("data sheets: NVIDIA"));
    }
    ++files;
  }
  EXPECT_GE(files, 4);
}

TEST_F(MachineFile, AllMistakesAreToldAtOnceWithTheirLines) {
  std::string text = kValid;
  text.replace(text.find("24 GB"), 5, "24");
  text.replace(text.find("latency"), 7, "latancy");
  text.replace(text.find("linear.bf16"), 11, "linaer.bf16");
  text += "memory: 3 GB\n";
  EXPECT_THAT(
      mistakes(text),
      AllOf(HasSubstr("machine.yaml:4:36: node.memory: must be a positive number with a unit, as in '80 GB'"),
            HasSubstr("nearest valid key 'latency'"), HasSubstr("nearest valid key 'linear.bf16'"),
            HasSubstr("links.node.latency: is required"), HasSubstr("memory: unknown key")));
}

TEST_F(MachineFile, PointsMustAscendAndRatesBePositive) {
  EXPECT_THAT(mistakes(changed("[[1e7, 1e11], [1e9, 4e11]]", "[[1e9, 1e11], [1e7, 4e11]]")),
              HasSubstr("kernels.linear.bf16: must be a list of [work, rate] with ascending work"));
  EXPECT_NE(mistakes(changed("4e11", "0")), "");
  EXPECT_NE(mistakes(changed("4e11", "fast")), "");
}

TEST_F(MachineFile, WhereNothingWasMeasuredTheSourceMustBeNamed) {
  EXPECT_THAT(mistakes(changed("source: a test\n", "")), HasSubstr("say where the figures come from"));
  EXPECT_THAT(mistakes(changed("kind: cpu", "kind: H100")), HasSubstr("device.memory: is required"));
}

TEST_F(MachineFile, RatesAreInterpolatedInLogarithms) {
  const Machine machine = read(kValid);
  EXPECT_NEAR(machine.seconds("linear.bf16", 1e8), 1e8 / std::sqrt(1e11 * 4e11), 1e-12);
  EXPECT_DOUBLE_EQ(machine.seconds("linear.bf16", 1e7), 1e7 / 1e11);
  EXPECT_DOUBLE_EQ(machine.seconds("linear.bf16", 1e3), 1e3 / 1e11) << "below the first point";
  EXPECT_DOUBLE_EQ(machine.seconds("linear.bf16", 1e12), 1e12 / 4e11) << "above the last";
  EXPECT_EQ(machine.seconds("linear.bf16", 0), 0);
  try {
    machine.seconds("refine", 1);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("no rate of 'refine'"));
  }
}

TEST(Quantity, HasAUnitOfItsDimension) {
  EXPECT_EQ(parse_quantity("6 GB/s", "bytes/s"), 6e9);
  EXPECT_EQ(parse_quantity("2GiB", "bytes"), 2147483648.0);
  EXPECT_EQ(parse_quantity("1.5 ms", "s"), 1.5e-3);
  for (const char* wrong : {"6 GB", "6", "GB/s", "6 GB/s/s", "six GB/s", "inf GB/s"})
    EXPECT_FALSE(parse_quantity(wrong, "bytes/s")) << wrong;
}

TEST(FindMachine, AnUnknownNameIsRefused) {
  try {
    find_machine("no-such-machine");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("'no-such-machine'"), HasSubstr("--measure FILE")));
  }
}

}  // namespace
}  // namespace gptq::test
