#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "io/job_lock.h"
#include "io/output_directory.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class OutputDirectory : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directory(source()); }

  fs::path source() const { return root_ / "source"; }
  fs::path output() const { return root_ / "output"; }
  OutputClaim claim(const std::string& fingerprint = "mine") const {
    return {output(), source(), fingerprint, false, 1000};
  }
  void put(const std::string& name, const std::string& text = "x") const {
    fs::create_directories(output());
    std::ofstream(output() / name) << text;
  }
  std::string complaint(const OutputClaim& wanted) {
    try {
      claim_output_directory(wanted);
    } catch (const IoError& error) {
      return error.what();
    }
    return "no complaint";
  }

  TempDirectory root_;
};

TEST_F(OutputDirectory, MakesAndMarksANewOne) {
  OutputClaim deep = claim();
  deep.directory = output() / "a" / "b";
  claim_output_directory(deep);
  EXPECT_EQ(read_text_file(deep.directory / kJobMarker), "mine\n");
  release_output_directory(deep.directory);
  EXPECT_TRUE(fs::is_empty(deep.directory));
}

TEST_F(OutputDirectory, RefusesForeignFilesUntouched) {
  put("notes.txt", "dear diary");
  EXPECT_THAT(complaint(claim()), HasSubstr("--overwrite"));
  EXPECT_EQ(read_text_file(output() / "notes.txt"), "dear diary");
  EXPECT_FALSE(fs::exists(output() / kJobMarker));
}

TEST_F(OutputDirectory, RefusesAnotherJobsOutput) {
  fs::create_directories(output());
  write_manifest({"theirs", "gptq-hpc 0", {}}, output());
  EXPECT_THAT(complaint(claim()), HasSubstr("output of another job"));
  fs::remove(output() / kManifestFile);
  put(kJobMarker, "theirs\n");
  EXPECT_THAT(complaint(claim()), HasSubstr("output of another job"));
}

TEST_F(OutputDirectory, TakesItsOwnUpAgainAndClearsLeftovers) {
  claim_output_directory(claim());
  put("model.safetensors.partial");
  put("config.json");
  claim_output_directory(claim());
  EXPECT_FALSE(fs::exists(output() / "model.safetensors.partial"));
  EXPECT_FALSE(fs::exists(output() / "config.json"));
  EXPECT_TRUE(fs::exists(output() / kJobMarker));
}

TEST_F(OutputDirectory, OverwriteRemovesOnlyWhatAnOutputHas) {
  put("model-00001-of-00002.safetensors");
  put("tokenizer.json");
  put("report.json");
  put("listed.bin");
  put("notes.txt");
  fs::create_directories(output() / "sub.safetensors");
  std::ofstream(output() / "sub.safetensors" / "keep") << "x";
  write_manifest({"theirs", "gptq-hpc 0", {{"listed.bin", {1, "00"}}}}, output());
  OutputClaim forced = claim();
  forced.overwrite = true;
  claim_output_directory(forced);
  for (const char* gone :
       {"model-00001-of-00002.safetensors", "tokenizer.json", "report.json", "listed.bin", kManifestFile}) {
    EXPECT_FALSE(fs::exists(output() / gone)) << gone;
  }
  EXPECT_TRUE(fs::exists(output() / "notes.txt"));
  EXPECT_TRUE(fs::exists(output() / "sub.safetensors" / "keep"));
}

TEST_F(OutputDirectory, NeverTheSourceModelNotEvenByAnotherName) {
  std::ofstream(source() / "model.safetensors") << "precious";
  OutputClaim forced = claim();
  forced.overwrite = true;
  forced.directory = source();
  EXPECT_THAT(complaint(forced), HasSubstr("source model's own"));
  fs::create_directory_symlink(source(), root_ / "link");
  forced.directory = root_ / "link";
  EXPECT_THAT(complaint(forced), HasSubstr("source model's own"));
  EXPECT_EQ(read_text_file(source() / "model.safetensors"), "precious");
}

TEST_F(OutputDirectory, ThisProgramsLockAndCheckpointsAreNotForeign) {
  put(kLockFile);
  fs::create_directory(output() / kCheckpointFolder);
  std::ofstream(output() / kCheckpointFolder / "gen-000001.json") << "x";
  EXPECT_EQ(complaint(claim()), "no complaint");
  fs::remove(output() / kJobMarker);
  put("notes.txt");
  EXPECT_THAT(complaint(claim()), HasSubstr("('notes.txt')"));
  fs::remove_all(output() / kCheckpointFolder);
  fs::remove(output() / "notes.txt");
  put(kCheckpointFolder);  // a file of that name is not ours
  EXPECT_THAT(complaint(claim()), HasSubstr("('checkpoint')"));
}

TEST_F(OutputDirectory, LocksAndCheckpointsStayToTheirOwners) {
  const std::string beside_lock = std::string(kLockFile) + ".partial";
  put(kLockFile);
  put(beside_lock);
  fs::create_directory(output() / kCheckpointFolder);
  put("notes.txt");
  put("model.safetensors");
  OutputClaim forced = claim();
  forced.overwrite = true;
  claim_output_directory(forced);
  for (const char* name : {kLockFile, beside_lock.c_str(), kCheckpointFolder, "notes.txt"}) {
    EXPECT_TRUE(fs::exists(output() / name)) << name;
  }
  EXPECT_FALSE(fs::exists(output() / "model.safetensors"));
}

TEST_F(OutputDirectory, WhatACheckpointCountsOnIsKept) {
  claim_output_directory(claim());
  put("model-00001-of-00002.safetensors");
  put("model-00002-of-00002.safetensors.partial");
  put("config.json");
  OutputClaim again = claim();
  again.keep = {"model-00001-of-00002.safetensors", "model-00001-of-00002.safetensors.partial"};
  claim_output_directory(again);
  EXPECT_TRUE(fs::exists(output() / "model-00001-of-00002.safetensors"));
  EXPECT_FALSE(fs::exists(output() / "model-00002-of-00002.safetensors.partial"));
  EXPECT_FALSE(fs::exists(output() / "config.json"));
}

TEST_F(OutputDirectory, ReleaseTakesLeftoversOfAnInterruptedEnd) {
  claim_output_directory(claim());
  put("report.json.partial");
  put("model.safetensors");
  put(std::string(kLockFile) + ".partial");
  release_output_directory(output());
  EXPECT_FALSE(fs::exists(output() / "report.json.partial"));
  EXPECT_FALSE(fs::exists(output() / kJobMarker));
  EXPECT_TRUE(fs::exists(output() / "model.safetensors"));
  EXPECT_TRUE(fs::exists(output() / (std::string(kLockFile) + ".partial")));
}

TEST_F(OutputDirectory, TooLittleRoomChangesNothing) {
  put("model.safetensors");
  OutputClaim huge = claim();
  huge.overwrite = true;
  huge.bytes = std::uint64_t{1} << 62;
  EXPECT_THAT(complaint(huge), HasSubstr("GB free, but the output needs"));
  EXPECT_TRUE(fs::exists(output() / "model.safetensors"));
}

TEST_F(OutputDirectory, PlacesThatCannotBeDirectories) {
  std::ofstream(output()) << "a file";
  EXPECT_THAT(complaint(claim()), HasSubstr("is a file"));
  OutputClaim below = claim();
  below.directory = output() / "below";
  EXPECT_THAT(complaint(below), HasSubstr("cannot make the output directory"));
}

TEST_F(OutputDirectory, ManifestRoundTrip) {
  fs::create_directories(output());
  write_manifest({"abc", "gptq-hpc 9", {{"a", {3, "ff"}}, {"b", {5, "ee"}}}}, output());
  const auto manifest = read_manifest(output());
  ASSERT_TRUE(manifest);
  EXPECT_EQ(manifest->fingerprint, "abc");
  EXPECT_EQ(manifest->created_by, "gptq-hpc 9");
  EXPECT_EQ(manifest->files.at("b").bytes, 5u);
  EXPECT_EQ(manifest->files.at("a").sha256, "ff");
  EXPECT_FALSE(read_manifest(source()));
}

TEST_F(OutputDirectory, ManifestsThatLie) {
  put(kManifestFile, "{");
  EXPECT_THROW(read_manifest(output()), InputError);
  put(kManifestFile, R"({"format":"gptq-hpc-manifest","version":2})");
  EXPECT_THROW(read_manifest(output()), InputError);
  put(kManifestFile, R"({"format":"gptq-hpc-manifest","version":1,"fingerprint":"a","created_by":"b",)"
                     R"("files":{"../../etc/passwd":{"bytes":1,"sha256":"0"}}})");
  EXPECT_THROW(read_manifest(output()), InputError);
}

}  // namespace
}  // namespace gptq::test
