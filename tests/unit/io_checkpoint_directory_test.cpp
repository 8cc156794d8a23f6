#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <set>

#include "base/error.h"
#include "io_checkpoint_support.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class Checkpoints : public ::testing::Test {
 protected:
  Checkpoints() { directory_.create(); }

  fs::path at(const std::string& name) const { return directory_.path() / name; }
  void put(const std::string& name) const { std::ofstream(at(name)) << "x"; }
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(directory_.path()))
      found.insert(entry.path().filename().string());
    return found;
  }
  /// The four files of a generation of commit_generation.
  static std::set<std::string> files_of(const std::vector<std::int64_t>& generations) {
    std::set<std::string> files;
    for (const std::int64_t g : generations) {
      files.merge(std::set<std::string>{test_manifest(g).file_name(), checkpoint_view_name(g),
                                        checkpoint_file_name(g, 0), checkpoint_file_name(g, 1)});
    }
    return files;
  }
  /// The first complaint when everything of a generation is checked.
  std::string check(std::int64_t generation) const {
    return complaint<InputError>([&] {
      for (const auto& file : directory_.read(generation).files) directory_.verify_file(file);
    });
  }

  TempDirectory root_;
  CheckpointDirectory directory_{root_ / "out" / "checkpoint"};
};

TEST_F(Checkpoints, AnEmptyOrMissingDirectoryHoldsNone) {
  for (const CheckpointDirectory& directory : {directory_, CheckpointDirectory(root_ / "nowhere")}) {
    EXPECT_FALSE(directory.exists());
    EXPECT_THAT(directory.generations(), IsEmpty());
    EXPECT_EQ(directory.next_generation(), 1);
    directory.prune(2, 0);
  }
  EXPECT_THAT(complaint<InputError>([&] { directory_.read(1); }),
              HasSubstr("gen-000001.json does not exist"));
}

TEST_F(Checkpoints, ACommittedGenerationIsGood) {
  const CheckpointManifest manifest = commit_generation(directory_, 7);
  EXPECT_TRUE(directory_.exists());
  EXPECT_THAT(directory_.generations(), ElementsAre(7));
  EXPECT_EQ(directory_.next_generation(), 8);
  EXPECT_EQ(to_json(directory_.read(7)), to_json(manifest));
  EXPECT_EQ(check(7), "no complaint");
  EXPECT_EQ(names(), files_of({7}));
}

TEST_F(Checkpoints, WithoutItsManifestAGenerationDoesNotExist) {
  commit_generation(directory_, 1);
  commit_generation(directory_, 2);
  fs::rename(at("gen-000002.json"), at("gen-000002.json.partial"));  // died just before the last step
  EXPECT_THAT(directory_.generations(), ElementsAre(1));
  EXPECT_EQ(directory_.next_generation(), 3);  // its number is not used again
}

TEST_F(Checkpoints, AManifestThatCannotBeWrittenLeavesNoGeneration) {
  CheckpointManifest manifest = test_manifest(1);
  fs::create_directory(at("gen-000001.json.partial"));
  EXPECT_THAT(complaint<IoError>([&] { directory_.commit(manifest); }), HasSubstr("gen-000001.json"));
  EXPECT_FALSE(directory_.exists());
  const CheckpointDirectory missing(root_ / "nowhere");
  EXPECT_THAT(complaint<IoError>([&] { missing.commit(manifest); }),
              AllOf(HasSubstr("gen-000001.json"), HasSubstr("No such file or directory")));
}

TEST_F(Checkpoints, AViewThatCannotBeWrittenCostsNoGeneration) {
  fs::create_directory(at(checkpoint_view_name(3) + ".partial"));
  commit_generation(directory_, 3);
  EXPECT_EQ(check(3), "no complaint");
}

TEST_F(Checkpoints, EveryRegionOfEveryFileIsWatched) {
  const CheckpointManifest manifest = commit_generation(directory_, 7);
  for (const auto& file : manifest.files) {
    const fs::path path = at(file.name);
    for (std::uint64_t place = 0; place < file.bytes; place += place < 2048 ? 1 : 61) {
      flip(path, place, static_cast<unsigned char>(1U << place % 8));
      ASSERT_THAT(check(7), AllOf(HasSubstr(path.string()), HasSubstr("damaged"))) << place;
      flip(path, place, static_cast<unsigned char>(1U << place % 8));
    }
    ASSERT_EQ(check(7), "no complaint");
  }
}

TEST_F(Checkpoints, TruncatedLongerAndMissingFilesAreNamed) {
  const CheckpointManifest manifest = commit_generation(directory_, 7);
  const fs::path path = at(manifest.files[1].name);
  const auto size = fs::file_size(path);
  for (const std::uintmax_t other : {std::uintmax_t{0}, std::uintmax_t{1}, size / 2, size - 1, size + 1}) {
    fs::resize_file(path, other);
    EXPECT_THAT(check(7), AllOf(HasSubstr(path.string()),
                                HasSubstr(fmt::format("has {} bytes instead of {}", other, size))));
  }
  fs::remove(path);
  EXPECT_THAT(check(7), AllOf(HasSubstr(path.string()), HasSubstr("No such file or directory")));
  fs::create_directory(path);
  EXPECT_THAT(check(7), HasSubstr(path.string()));
}

TEST_F(Checkpoints, ARenamedManifestIsRefused) {
  commit_generation(directory_, 7);
  fs::copy(at("gen-000007.json"), at("gen-000009.json"));
  EXPECT_THAT(directory_.generations(), ElementsAre(9, 7));
  EXPECT_THAT(complaint<InputError>([&] { directory_.read(9); }),
              AllOf(HasSubstr("gen-000009.json"), HasSubstr("generation 7")));
}

TEST_F(Checkpoints, PruneKeepsTheNewestAndWhatIsUnderWay) {
  for (const std::int64_t g : {1, 2, 10, 11}) commit_generation(directory_, g);
  put("gen-000012-rank-0000.h5.partial");  // under way
  put("gen-000012-rank-0001.h5");
  put("gen-000009-rank-0000.h5.partial");  // of a job that died
  put("gen-000010-rank-0000.h5.partial");
  put("gen-000005-rank-0003.h5");
  directory_.prune(2, 12);
  std::set<std::string> expected = files_of({10, 11});
  expected.merge(std::set<std::string>{"gen-000012-rank-0000.h5.partial", "gen-000012-rank-0001.h5"});
  EXPECT_EQ(names(), expected);
  directory_.prune(1, 0);
  EXPECT_EQ(names(), files_of({11}));
  EXPECT_EQ(check(11), "no complaint");
}

TEST_F(Checkpoints, PruneDoesNotCountGenerationsThatAreNotWhole) {
  for (const std::int64_t g : {1, 2, 3, 4, 5}) commit_generation(directory_, g);
  fs::remove(at(checkpoint_file_name(5, 1)));
  fs::resize_file(at(checkpoint_file_name(4, 0)), 100);
  flip(at("gen-000002.json"), 50);
  directory_.prune(2, 0);
  EXPECT_EQ(names(), files_of({1, 3}));
}

TEST_F(Checkpoints, PruneRemovesNothingWhenNoGenerationIsWhole) {
  commit_generation(directory_, 1);
  commit_generation(directory_, 2);
  flip(at("gen-000001.json"), 50);
  flip(at("gen-000002.json"), 50);
  put("gen-000003-rank-0000.h5.partial");
  const std::set<std::string> before = names();
  directory_.prune(2, 0);
  EXPECT_EQ(names(), before);
}

TEST_F(Checkpoints, DiscardRemovesOneGeneration) {
  for (const std::int64_t g : {1, 2, 3}) commit_generation(directory_, g);
  directory_.discard(2);
  EXPECT_EQ(names(), files_of({1, 3}));
}

/// Names that vanish from a directory while this lives, in order.
class Removals {
 public:
  explicit Removals(const fs::path& directory) : descriptor_(inotify_init1(IN_NONBLOCK)) {
    EXPECT_GE(inotify_add_watch(descriptor_, directory.c_str(), IN_DELETE), 0);
  }
  ~Removals() { ::close(descriptor_); }

  std::vector<std::string> names() const {
    alignas(inotify_event) std::array<char, 65536> buffer{};
    const ssize_t bytes = ::read(descriptor_, buffer.data(), buffer.size());
    std::vector<std::string> names;
    for (ssize_t place = 0; place < bytes;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + place);
      if ((event->mask & IN_DELETE) != 0) names.emplace_back(event->name);
      place += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
    return names;
  }

 private:
  int descriptor_;
};

TEST_F(Checkpoints, ManifestsAreRemovedBeforeTheFilesTheyName) {
  for (const std::int64_t g : {1, 2, 3}) commit_generation(directory_, g);
  const Removals prune_removals(directory_.path());
  directory_.prune(1, 0);
  std::vector<std::string> gone = prune_removals.names();
  ASSERT_EQ(gone.size(), 8U);
  gone.resize(2);
  EXPECT_THAT(gone, ElementsAre("gen-000001.json", "gen-000002.json"));
  const Removals all_removals(directory_.path());
  directory_.remove_all();
  gone = all_removals.names();
  ASSERT_EQ(gone.size(), 4U);
  EXPECT_EQ(gone[0], "gen-000003.json");
}

TEST_F(Checkpoints, WhatIsNotOursStays) {
  const std::set<std::string> foreign = {"notes.txt",          "gen-12.json",         "gen-000001.json.bak",
                                         "gen-000001-rank.h5", "gen-000002.h5.old",   ".hidden.partial",
                                         "other.partial",      "gen-000001-rank-1.h5"};
  for (const std::string& name : foreign) put(name);
  fs::create_directory(at("gen-000001-rank-0000.h5"));  // ours by name, but no file
  for (const std::int64_t g : {2, 3}) commit_generation(directory_, g);
  directory_.prune(1, 0);
  directory_.discard(3);
  directory_.remove_all();
  std::set<std::string> expected = foreign;
  expected.insert("gen-000001-rank-0000.h5");
  EXPECT_EQ(names(), expected);
}

TEST_F(Checkpoints, RemoveAllTakesTheDirectoryWithIt) {
  commit_generation(directory_, 1);
  put("gen-000002-rank-0000.h5.partial");
  directory_.remove_all();
  EXPECT_FALSE(fs::exists(directory_.path()));
  EXPECT_TRUE(fs::exists(root_ / "out"));
  directory_.remove_all();  // nothing there: nothing to do
}

TEST_F(Checkpoints, ADirectoryThatCannotBeMadeIsAnError) {
  std::ofstream(root_ / "file") << "x";
  EXPECT_THAT(complaint<IoError>([&] { CheckpointDirectory(root_ / "file" / "checkpoint").create(); }),
              AllOf(HasSubstr("file/checkpoint"), HasSubstr("checkpoint.path")));
}

TEST_F(Checkpoints, DescriptionShowsEachGenerationAndWhatIsWrong) {
  commit_generation(directory_, 7);
  const CheckpointManifest last = commit_generation(directory_, 8);
  const std::string good = describe_checkpoint(directory_.path());
  EXPECT_THAT(good, AllOf(HasSubstr("2 generation(s)"), HasSubstr("generation 8 of a checkpoint, good"),
                          HasSubstr("block 3, stage group 1, 3 chunks of its sum"),
                          HasSubstr("samples 3 to 4"), HasSubstr(last.files[0].sha256)));
  EXPECT_THAT(good, AllOf(HasSubstr("quantization.bits: 4"), Not(HasSubstr("NOT GOOD"))));
  flip(at(last.files[0].name), 3000);
  flip(at("gen-000007.json"), 50);
  EXPECT_THAT(describe_checkpoint(directory_.path()),
              AllOf(HasSubstr("generation 8 of a checkpoint, NOT GOOD"),
                    HasSubstr(last.files[0].name + " of the"), HasSubstr("generation 7: NOT GOOD")));
}

TEST_F(Checkpoints, DescriptionOfARankFile) {
  const CheckpointManifest manifest = commit_generation(directory_, 7);
  const fs::path path = at(manifest.files[0].name);
  const std::string good = describe_rank_file(path);
  EXPECT_THAT(good, AllOf(HasSubstr("state         good"), HasSubstr("samples 0 to 2, 10 tokens"),
                          HasSubstr("10 x 12 BF16"), HasSubstr("40 entries, 2 chunks"),
                          HasSubstr("model.layers.3.mlp.z: 4 x 6, 3 bit")));
  flip(path, 0);
  EXPECT_THAT(describe_rank_file(path), HasSubstr("NOT GOOD"));
  flip(path, 0);
  fs::remove(at("gen-000007.json"));
  EXPECT_THAT(describe_rank_file(path), AllOf(HasSubstr("does not count"), HasSubstr("10 x 12 BF16")));
}

}  // namespace
}  // namespace gptq::test
