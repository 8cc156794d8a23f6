#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <sstream>

#include "base/error.h"
#include "base/sha256.h"
#include "io_checkpoint_support.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CheckpointManifestTest : public ::testing::Test {
 protected:
  fs::path path() const { return directory_ / "gen-000012.json"; }
  CheckpointManifest round_trip(const CheckpointManifest& manifest) {
    write_file(path(), to_json(manifest));
    return read_checkpoint_manifest(path());
  }
  void put(const std::string& text) {
    fs::remove(
        path());  // some file systems bring a file to disk whose content is replaced: slow, many times over
    std::ofstream(path(), std::ios::binary) << text;
  }
  std::string said() {
    return complaint<InputError>([&] { read_checkpoint_manifest(path()); });
  }

  TempDirectory directory_;
};

/// A test manifest with two files.
CheckpointManifest full_manifest() {
  CheckpointManifest manifest = test_manifest(12);
  manifest.files = {{"gen-000012-rank-0000.h5", 18446744073709551615ULL, std::string(64, 'b'), 0, 3, {0, 2}},
                    {"gen-000012-rank-0001.h5", 5, std::string(64, 'c'), 3, 5, {}}};
  return manifest;
}

TEST_F(CheckpointManifestTest, EverythingComesBackAsItWas) {
  const CheckpointManifest before = full_manifest();
  const CheckpointManifest after = round_trip(before);
  EXPECT_EQ(to_json(after), to_json(before));
  EXPECT_EQ(after.generation, 12);
  EXPECT_EQ(after.created_by, before.created_by);
  EXPECT_EQ(after.written, before.written);
  EXPECT_EQ(after.block, 3);
  EXPECT_EQ(after.group, 1);
  EXPECT_EQ(after.seconds, before.seconds);
  EXPECT_EQ(after.attempts, 2);
  EXPECT_EQ(after.identity, before.identity);
  EXPECT_EQ(after.made_with, before.made_with);
  EXPECT_EQ(after.block_sha256, before.block_sha256);
  ASSERT_EQ(after.files.size(), 2U);
  EXPECT_EQ(after.files[0].name, before.files[0].name);
  EXPECT_EQ(after.files[0].bytes, before.files[0].bytes);
  EXPECT_EQ(after.files[0].sha256, before.files[0].sha256);
  EXPECT_EQ(after.files[1].first_sample, 3);
  EXPECT_EQ(after.files[1].end_sample, 5);
  EXPECT_THAT(after.files[0].chunks_summed, ElementsAre(0, 2));
  ASSERT_EQ(after.layers.size(), 1U);
  const LayerStatistics& layer = after.layers[0];
  const LayerStatistics& expected = before.layers[0];
  EXPECT_EQ(layer.module, expected.module);
  EXPECT_EQ(layer.bits, expected.bits);
  EXPECT_EQ(layer.group_size, expected.group_size);
  EXPECT_EQ(layer.samples, expected.samples);
  EXPECT_EQ(layer.tokens, expected.tokens);
  EXPECT_EQ(layer.damp_percent, expected.damp_percent);
  EXPECT_EQ(layer.damping_steps, expected.damping_steps);
  EXPECT_EQ(layer.fallback, expected.fallback);
  EXPECT_EQ(layer.fallback_reason, expected.fallback_reason);
  EXPECT_EQ(layer.loss, expected.loss);
  EXPECT_EQ(layer.relative_weight_error, expected.relative_weight_error);
  EXPECT_EQ(layer.relative_output_error, expected.relative_output_error);
  EXPECT_EQ(layer.refinement_gain, expected.refinement_gain);
  EXPECT_EQ(layer.raised_rows, expected.raised_rows);
  EXPECT_EQ(layer.seconds, expected.seconds);
}

TEST_F(CheckpointManifestTest, EveryDoubleComesBackBitByBit) {
  std::mt19937_64 random(1);
  CheckpointManifest manifest = test_manifest(12);
  const double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> values = {
      0.0, -0.0, 1.0, 0.1, 1e16, 1e22, 1e23, 5e-324, -2.2250738585072011e-308, infinity, -infinity};
  while (values.size() < 2000) {
    const double value = std::bit_cast<double>(random());
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) manifest.layers.emplace_back().loss = value;
  manifest.seconds = std::nan("");
  const CheckpointManifest after = round_trip(manifest);
  EXPECT_TRUE(std::isnan(after.seconds));
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(after.layers[i + 1].loss), std::bit_cast<std::uint64_t>(values[i]))
        << values[i];
  }
}

TEST_F(CheckpointManifestTest, TheHashIsThatOfTheBytesBeforeIt) {
  const std::string text = to_json(full_manifest());
  const std::size_t seal = text.rfind(",\n  \"sha256\"");
  Sha256 hash;
  hash.update(text.data(), seal);
  EXPECT_EQ(text.substr(seal), ",\n  \"sha256\": \"" + hash.hex() + "\"\n}\n");
  EXPECT_EQ(text.size() - seal, 83U);  // what the documentation says
}

/// `text` without the lines that name this key, its hash made anew.
std::string without_key(const std::string& text, const std::string& key) {
  const std::size_t seal = text.rfind(",\n  \"sha256\"");
  std::istringstream lines(text.substr(0, seal));
  std::string kept, line;
  while (std::getline(lines, line)) {
    if (line.find("\"" + key + "\"") == std::string::npos) kept += (kept.empty() ? "" : "\n") + line;
  }
  Sha256 hash;
  hash.update(kept.data(), kept.size());
  return kept + ",\n  \"sha256\": \"" + hash.hex() + "\"\n}\n";
}

// An earlier program's checkpoint is refused for its identity, by name; as damaged it would be passed over.
TEST_F(CheckpointManifestTest, OneFromBeforeRefinementWasMeasuredIsRead) {
  const std::string text = to_json(full_manifest());
  const std::string older = without_key(without_key(text, "refinement_gain"), "raised_rows");
  ASSERT_LT(older.size(), text.size());
  put(older);
  const CheckpointManifest manifest = read_checkpoint_manifest(path());
  EXPECT_EQ(manifest.layers.at(0).raised_rows, 0);
  EXPECT_EQ(manifest.layers.at(0).seconds, full_manifest().layers.at(0).seconds);
}

TEST_F(CheckpointManifestTest, EveryAlteredByteIsNoticed) {
  const std::string good = to_json(full_manifest());
  for (std::size_t place = 0; place < good.size(); ++place) {
    std::string text = good;
    text[place] = static_cast<char>(text[place] ^ (1 << place % 7));
    put(text);
    ASSERT_THAT(said(), HasSubstr(path().string())) << "byte " << place << ": " << text.substr(place, 20);
  }
}

TEST_F(CheckpointManifestTest, EveryTruncationIsNoticed) {
  const std::string good = to_json(full_manifest());
  for (std::size_t size = 0; size < good.size(); ++size) {
    put(good.substr(0, size));
    ASSERT_THAT(said(), HasSubstr(path().string())) << size;
  }
  put(good + "\n");
  EXPECT_THAT(said(), HasSubstr("altered"));
}

TEST_F(CheckpointManifestTest, OtherFilesAreRefusedWithTheReason) {
  EXPECT_THAT(said(), HasSubstr("does not exist"));
  put("");
  EXPECT_THAT(said(), HasSubstr("torn or altered"));
  put("[1, 2]");
  EXPECT_THAT(said(), HasSubstr("no checkpoint manifest"));
  put("{}");
  EXPECT_THAT(said(), HasSubstr("no checkpoint manifest"));
  std::string text = to_json(full_manifest());
  text.replace(text.find("\"version\": 1"), 12, "\"version\": 2");
  put(text);
  EXPECT_THAT(said(), AllOf(HasSubstr("version 2"), HasSubstr("reads version 1")));
}

TEST_F(CheckpointManifestTest, NamesThatLeadElsewhereAreRefused) {
  for (const char* name : {"../gen-000012-rank-0000.h5", "/etc/passwd", "gen-000011-rank-0000.h5",
                           "gen-000012.h5", "", "gen-000012-rank-0000.h5.partial"}) {
    CheckpointManifest manifest = test_manifest(12);
    manifest.files = {{name, 1, "", 0, 1, {}}};
    put(to_json(manifest));
    EXPECT_THAT(said(), HasSubstr("no rank file's name")) << name;
  }
}

TEST_F(CheckpointManifestTest, TextThatIsNoUtf8DoesNotStopACheckpoint) {
  CheckpointManifest manifest = test_manifest(12);
  manifest.identity["model.path"] = "/data/\xff\xfe";
  const CheckpointManifest after = round_trip(manifest);
  EXPECT_THAT(differing_keys(after.identity, manifest.identity), IsEmpty());
}

TEST(CheckpointNames, AreReadBackAndNothingElseIs) {
  using Kind = CheckpointFileName::Kind;
  const auto expect = [](const std::string& name, Kind kind, std::int64_t generation, bool partial) {
    const auto parsed = parse_checkpoint_name(name);
    ASSERT_TRUE(parsed.has_value()) << name;
    EXPECT_EQ(parsed->kind, kind) << name;
    EXPECT_EQ(parsed->generation, generation) << name;
    EXPECT_EQ(parsed->partial, partial) << name;
  };
  expect(test_manifest(12).file_name(), Kind::manifest, 12, false);
  expect(checkpoint_view_name(1234567), Kind::view, 1234567, false);
  expect(checkpoint_file_name(12, 3), Kind::rank_file, 12, false);
  expect(checkpoint_file_name(12, 34567), Kind::rank_file, 12, false);
  expect("gen-000012.json.partial", Kind::manifest, 12, true);
  expect("gen-000012.h5.partial", Kind::view, 12, true);
  expect("gen-000012-rank-0003.h5.partial", Kind::rank_file, 12, true);
  for (const char* name :
       {"", "gen-", "gen-12.json", "gen-0000012.json", "gen--00012.json", "gen-000012", "gen-000012.txt",
        "gen-000012-rank-3.h5", "gen-000012-rank-0003.json", "gen-000012-rank-.h5", "xgen-000012.json",
        "gen-000012.jsonx", "gen-000012.json.partial.partial", "gen-99999999999999999999.json"}) {
    EXPECT_FALSE(parse_checkpoint_name(name).has_value()) << name;
  }
}

TEST(CheckpointKeys, DifferencesAreListed) {
  EXPECT_THAT(differing_keys({{"a", "1"}, {"b", "2"}, {"c", "3"}}, {{"a", "1"}, {"b", "4"}, {"d", "5"}}),
              ElementsAre("b: 2 → 4", "c: 3 → (none)", "d: (none) → 5"));
  EXPECT_THAT(differing_keys({{"a", "1"}}, {{"a", "1"}}), IsEmpty());
  EXPECT_EQ(differing_keys({{"a", "(none)"}}, {}).size(), 1U);
}

}  // namespace
}  // namespace gptq::test
