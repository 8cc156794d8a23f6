#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/process.h"
#include "base/sha256.h"
#include "io/calibration.h"
#include "io/hdf5_handle.h"
#include "io/vocabulary.h"
#include "support/temp_directory.h"
#include "support/tiny_model.h"

namespace gptq::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Calibration : public ::testing::Test {
 protected:
  std::string path() const { return (directory_ / "calibration.h5").string(); }

  std::string complaint(std::int64_t limit = 0, std::int64_t vocab = 100) {
    try {
      read_calibration(path(), {.limit = limit}, vocab);
    } catch (const InputError& error) {
      return error.what();
    } catch (const std::exception& error) {
      return std::string("another exception: ") + error.what();
    }
    return "no complaint";
  }

  void edit(const std::function<void(hid_t)>& change) {
    const Hdf5Handle file(hdf5_check(H5Fopen(path().c_str(), H5F_ACC_RDWR, H5P_DEFAULT), "open", path()));
    change(file.get());
  }

  /// Replaces entries of a dataset; `seal` brings the hash up to date.
  void set_values(const char* dataset, const std::vector<std::pair<std::size_t, std::int32_t>>& changes,
                  bool seal) {
    edit([&](hid_t file) {
      std::vector<std::int32_t> values = read(file, dataset);
      for (const auto& [index, value] : changes) values.at(index) = value;
      const Hdf5Handle data(H5Dopen2(file, dataset, H5P_DEFAULT));
      H5Dwrite(data.get(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    });
    if (seal) edit([&](hid_t file) { seal_hash(file); });
  }

  static std::vector<std::int32_t> read(hid_t file, const char* dataset) {
    const Hdf5Handle data(H5Dopen2(file, dataset, H5P_DEFAULT));
    const Hdf5Handle space(H5Dget_space(data.get()));
    std::vector<std::int32_t> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space.get())));
    H5Dread(data.get(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    return values;
  }

  static void seal_hash(hid_t file) {
    Sha256 hash;
    for (const char* name : {"attention_mask", "input_ids", "lengths"}) {
      if (H5Lexists(file, name, H5P_DEFAULT) <= 0) continue;
      const auto values = read(file, name);
      hash.update(values.data(), values.size() * 4);
    }
    replace_text(file, "sha256", hash.hex());
  }

  /// As a fixed-length string, the other way in which files may hold them.
  static void replace_text(hid_t file, const char* name, const std::string& text) {
    if (H5Aexists(file, name) > 0) H5Adelete(file, name);
    const Hdf5Handle type(H5Tcopy(H5T_C_S1));
    H5Tset_size(type.get(), text.size());
    H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
    const Hdf5Handle space(H5Screate(H5S_SCALAR));
    const Hdf5Handle attribute(H5Acreate2(file, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT));
    H5Awrite(attribute.get(), type.get(), text.data());
  }

  static void replace_integer(hid_t file, const char* name, std::int64_t value) {
    if (H5Aexists(file, name) > 0) H5Adelete(file, name);
    const Hdf5Handle space(H5Screate(H5S_SCALAR));
    const Hdf5Handle attribute(H5Acreate2(file, name, H5T_STD_I32BE, space.get(), H5P_DEFAULT, H5P_DEFAULT));
    H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value);
  }

  /// Makes the file one of version 2 with this mask (a row a sample).
  void set_mask(const std::vector<std::vector<std::int32_t>>& mask) {
    edit([&](hid_t file) {
      const std::array<hsize_t, 2> shape{mask.size(), mask.front().size()};
      const Hdf5Handle space(H5Screate_simple(2, shape.data(), nullptr));
      const Hdf5Handle data(H5Dcreate2(file, "attention_mask", H5T_STD_I32LE, space.get(), H5P_DEFAULT,
                                       H5P_DEFAULT, H5P_DEFAULT));
      std::vector<std::int32_t> flat;
      for (const auto& row : mask) flat.insert(flat.end(), row.begin(), row.end());
      H5Dwrite(data.get(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, flat.data());
      replace_integer(file, "version", 2);
      seal_hash(file);
    });
  }

  std::string complaint_of(const SampleChoice& choice) {
    try {
      read_calibration(path(), choice, 100);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no complaint";
  }

  TempDirectory directory_;
};

TEST_F(Calibration, RoundTrip) {
  write_calibration(path(), 5, 16, 100, 7);
  const CalibrationData data = read_calibration(path(), {}, 100);
  ASSERT_EQ(data.samples.size(), 5u);
  EXPECT_EQ(data.tokens(), 80);
  EXPECT_EQ(data.longest(), 16);
  EXPECT_EQ(data.seqlen, 16);
  EXPECT_EQ(data.vocab_size, 100);
  EXPECT_EQ(data.seed, 7);
  EXPECT_EQ(data.mode, "windows");
  edit([&](hid_t file) {
    const auto ids = read(file, "input_ids");
    for (std::size_t s = 0; s < 5; ++s) {
      EXPECT_TRUE(
          std::equal(data.samples[s].begin(), data.samples[s].end(), ids.begin() + std::ptrdiff_t(s * 16)));
    }
  });
}

TEST_F(Calibration, LimitTakesTheFirstSamples) {
  write_calibration(path(), 5, 16, 100, 7);
  const CalibrationData all = read_calibration(path(), {}, 100);
  const CalibrationData some = read_calibration(path(), {.limit = 2}, 100);
  ASSERT_EQ(some.samples.size(), 2u);
  EXPECT_EQ(some.samples[1], all.samples[1]);
  EXPECT_EQ(some.sha256, all.sha256);
  EXPECT_THAT(complaint(6), AllOf(HasSubstr("holds 5 samples"), HasSubstr("6 are asked for")));
}

TEST_F(Calibration, PaddingIsDropped) {
  write_calibration(path(), 8, 16, 100, 3, true);
  const CalibrationData data = read_calibration(path(), {}, 100);
  edit([&](hid_t file) {
    const auto lengths = read(file, "lengths");
    for (std::size_t s = 0; s < 8; ++s) EXPECT_EQ(data.samples[s].size(), std::size_t(lengths[s]));
  });
  EXPECT_LT(data.tokens(), 8 * 16);
}

TEST_F(Calibration, FixedLengthStringsAndOtherIntegerTypes) {
  write_calibration(path(), 2, 8, 100, 1);
  edit([&](hid_t file) {
    replace_text(file, "format", "gptq-hpc-calibration");
    replace_text(file, "source", "a file");
    replace_integer(file, "seqlen", 8);
    seal_hash(file);
  });
  EXPECT_EQ(read_calibration(path(), {}, 100).source, "a file");
}

TEST_F(Calibration, WrongHash) {
  write_calibration(path(), 2, 8, 100, 1);
  set_values("input_ids", {{3, 1}, {4, 2}}, false);
  EXPECT_THAT(complaint(), AllOf(HasSubstr("damaged"), HasSubstr("SHA-256")));
}

TEST_F(Calibration, HashCoversSamplesBeyondTheLimit) {
  write_calibration(path(), 3, 8, 100, 1);
  set_values("input_ids", {{20, 1}, {21, 2}}, false);
  EXPECT_THAT(complaint(1), HasSubstr("damaged"));
}

TEST_F(Calibration, IdOutsideTheVocabularyNamesSampleAndPosition) {
  write_calibration(path(), 3, 8, 100, 1);
  set_values("input_ids", {{8 + 5, 777}}, true);
  EXPECT_THAT(complaint(), AllOf(HasSubstr("sample 1, position 5"), HasSubstr("777"), HasSubstr("[0, 100)")));
  set_values("input_ids", {{8 + 5, -1}}, true);
  EXPECT_THAT(complaint(), HasSubstr("token id -1"));
}

TEST_F(Calibration, BadIdInThePaddingIsHarmless) {
  write_calibration(path(), 3, 8, 100, 1);
  set_values("lengths", {{1, 4}}, true);
  set_values("input_ids", {{8 + 5, 777}}, true);
  EXPECT_EQ(complaint(), "no complaint");
}

TEST_F(Calibration, SampleWithoutTokens) {
  write_calibration(path(), 3, 8, 100, 1);
  set_values("lengths", {{2, 0}}, true);
  EXPECT_THAT(complaint(), AllOf(HasSubstr("sample 2 has length 0")));
  set_values("lengths", {{2, 9}}, true);
  EXPECT_THAT(complaint(), HasSubstr("sample 2 has length 9"));
}

TEST_F(Calibration, NoSamples) {
  write_calibration(path(), 3, 8, 100, 1);
  edit([](hid_t file) { replace_integer(file, "nsamples", 0); });
  EXPECT_THAT(complaint(), HasSubstr("holds no samples"));
}

TEST_F(Calibration, ShapesAgainstAttributes) {
  write_calibration(path(), 3, 8, 100, 1);
  edit([](hid_t file) { replace_integer(file, "nsamples", 2); });
  EXPECT_THAT(complaint(), HasSubstr("/lengths"));
  edit([](hid_t file) {
    replace_integer(file, "nsamples", 3);
    replace_integer(file, "seqlen", 9);
  });
  EXPECT_THAT(complaint(), HasSubstr("/input_ids"));
}

TEST_F(Calibration, OtherFormatsAndVersions) {
  write_calibration(path(), 3, 8, 100, 1);
  edit([](hid_t file) { replace_integer(file, "version", 3); });
  EXPECT_THAT(complaint(), AllOf(HasSubstr("format version 3"), HasSubstr("reads versions 1 and 2")));
  edit([](hid_t file) { replace_text(file, "format", "something"); });
  EXPECT_THAT(complaint(), HasSubstr("'something'"));
  edit([](hid_t file) { H5Adelete(file, "format"); });
  EXPECT_THAT(complaint(), HasSubstr("no attribute 'format'"));
  edit([](hid_t file) { replace_integer(file, "format", 1); });
  EXPECT_THAT(complaint(), HasSubstr("not a string"));
}

TEST_F(Calibration, MissingDataset) {
  write_calibration(path(), 3, 8, 100, 1);
  edit([](hid_t file) { H5Ldelete(file, "lengths", H5P_DEFAULT); });
  EXPECT_THAT(complaint(), HasSubstr("no dataset /lengths"));
}

TEST_F(Calibration, FilesThatAreNotHdf5) {
  EXPECT_THAT(complaint(), HasSubstr("does not exist"));
  std::ofstream(path()) << "plain text";
  EXPECT_THAT(complaint(), HasSubstr("no HDF5 file"));
  std::filesystem::remove(path());
  std::filesystem::create_directory(path());
  EXPECT_THAT(complaint(), HasSubstr("is a directory"));
}

TEST_F(Calibration, TruncatedFile) {
  write_calibration(path(), 64, 256, 100, 1);
  std::filesystem::resize_file(path(), std::filesystem::file_size(path()) / 2);
  EXPECT_THROW(read_calibration(path(), {}, 100), Error);
}

class Tokenizer : public Calibration {
 protected:
  void write_tokenizer(const std::string& json) { std::ofstream(directory_ / "tokenizer.json") << json; }
  const std::filesystem::path& model() const { return directory_.path(); }
};

TEST_F(Tokenizer, OtherWordsAreRefused) {
  write_tokenizer(R"({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<s>"}]})");
  CalibrationData data;
  EXPECT_NO_THROW(check_tokenizer(data, model())) << "unknown tokenizer";
  data.vocabulary_sha256 = vocabulary_sha256(model());
  EXPECT_NO_THROW(check_tokenizer(data, model()));
  EXPECT_NO_THROW(check_tokenizer(data, directory_ / "elsewhere")) << "a model without tokenizer.json";
  write_tokenizer(R"({"model": {"vocab": {"a": 1, "b": 0}}, "added_tokens": [{"id": 2, "content": "<s>"}]})");
  EXPECT_THROW(check_tokenizer(data, model()), InputError);
}

// Found with Gemma 3's 262,144 words: 170 MB of what the parser had left stood beside the embedding.
TEST_F(Tokenizer, ALargeOneLeavesNoMemoryBehind) {
  std::string words;
  for (int id = 0; id < 300'000; ++id)
    words += fmt::format(R"({}"a word of some length {}": {})", id > 0 ? "," : "", id, id);
  write_tokenizer(R"({"model": {"vocab": {)" + words + "}}}");
  const CalibrationData data;
  // As in the program, in a process of its own: the setting stays.
  const auto resident_after = [&] {
    keep_freed_memory();
    const std::int64_t before = current_memory_bytes();
    check_tokenizer(data, model());
    const std::int64_t left = current_memory_bytes() - before;
    std::fprintf(stderr, "%lld bytes left", static_cast<long long>(left));
    std::_Exit(left < 16'000'000 ? 0 : 1);
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(resident_after(), testing::ExitedWithCode(0), "bytes left");
}

// Found when evaluating GPTQModel's output: it saves the tokenizer again, in other bytes.
TEST_F(Tokenizer, SavedAgainInAnotherFormIsTheSame) {
  write_tokenizer(
      R"({"model": {"vocab": {"\u00e9": 0, "b": 1}}, "added_tokens": [{"id": 1, "content": "b"}]})");
  const std::string first = vocabulary_sha256(model());
  write_tokenizer("{\"version\": \"1.0\",\n \"model\": {\"vocab\": {\"b\": 1, \"\u00e9\": 0}}}");
  EXPECT_EQ(vocabulary_sha256(model()), first);
  write_tokenizer(R"({"model": {"type": "Unigram", "vocab": [["é", -1.5], ["b", -2]]}})");
  EXPECT_EQ(vocabulary_sha256(model()), first);
  // The same figure as in tools/tests: both programs must agree on it.
  EXPECT_EQ(first, "59dbac0a809f1544b19a45deba374fe2af77861cc59f5dc75ac2f05364141f35");
}

TEST_F(Tokenizer, BrokenFileIsNamed) {
  write_tokenizer("{\"model\": ");
  EXPECT_THROW(vocabulary_sha256(model()), InputError);
}

TEST_F(Calibration, MaskedPaddingIsDroppedOnBothSides) {
  write_calibration(path(), 3, 6, 100, 4);
  const CalibrationData whole = read_calibration(path(), {}, 100);
  set_mask({{0, 0, 1, 1, 1, 1}, {1, 1, 1, 0, 0, 0}, {1, 1, 1, 1, 1, 1}});
  const CalibrationData data = read_calibration(path(), {}, 100);
  const auto part = [&](std::size_t sample, int first, int end) {
    return std::vector<std::int32_t>(whole.samples[sample].begin() + first,
                                     whole.samples[sample].begin() + end);
  };
  EXPECT_EQ(data.samples[0], part(0, 2, 6));
  EXPECT_EQ(data.samples[1], part(1, 0, 3));
  EXPECT_EQ(data.samples[2], whole.samples[2]);
  EXPECT_EQ(data.padding, 5);
  EXPECT_NE(data.sha256, whole.sha256) << "the mask is part of the content";
}

TEST_F(Calibration, MasksThatCannotBeMeant) {
  const auto complaint_of_mask = [&](const std::vector<std::int32_t>& second_row) {
    write_calibration(path(), 2, 4, 100, 4);
    set_values("lengths", {{1, 3}}, true);
    set_mask({{1, 1, 1, 1}, second_row});
    return complaint();
  };
  EXPECT_EQ(complaint_of_mask({1, 1, 1, 0}), "no complaint");
  EXPECT_THAT(complaint_of_mask({1, 0, 1, 0}),
              AllOf(HasSubstr("sample 1: attention_mask goes on after padding"), HasSubstr("at position 2")));
  EXPECT_THAT(complaint_of_mask({1, 1, 1, 1}), HasSubstr("beyond the sample's length at position 3"));
  EXPECT_THAT(complaint_of_mask({1, 2, 1, 0}), HasSubstr("neither 0 nor 1 at position 1"));
  EXPECT_THAT(complaint_of_mask({0, 0, 0, 0}), HasSubstr("sample 1 is nothing but padding"));
}

TEST_F(Calibration, MaskOfVersion1IsRefused) {
  write_calibration(path(), 1, 4, 100, 4);
  set_mask({{1, 1, 1, 0}});
  edit([](hid_t file) { replace_integer(file, "version", 1); });
  EXPECT_THAT(complaint(), HasSubstr("version 1 of the format does not know"));
}

TEST_F(Calibration, DamagedMaskIsFound) {
  write_calibration(path(), 1, 4, 100, 4);
  set_mask({{1, 1, 1, 0}});
  set_values("attention_mask", {{2, 0}}, false);
  EXPECT_THAT(complaint(), HasSubstr("damaged"));
}

TEST_F(Calibration, PadTokenIsPaddingAtTheEndsOnly) {
  write_calibration(path(), 1, 8, 100, 4);
  set_values("input_ids", {{0, 9}, {1, 9}, {2, 5}, {3, 9}, {4, 6}, {5, 7}, {6, 9}, {7, 9}}, true);
  const CalibrationData data = read_calibration(path(), {.pad_token = 9}, 100);
  EXPECT_EQ(data.samples[0], (std::vector<std::int32_t>{5, 9, 6, 7}));
  EXPECT_EQ(data.padding, 4);
  EXPECT_EQ(read_calibration(path(), {}, 100).samples[0].size(), 8u);
}

TEST_F(Calibration, PadTokenMayLieOutsideTheVocabulary) {
  write_calibration(path(), 1, 4, 100, 4);
  set_values("input_ids", {{3, 100}}, true);
  EXPECT_THAT(complaint(), HasSubstr("token id 100"));
  EXPECT_EQ(complaint_of({.pad_token = 100}), "no complaint");
}

TEST_F(Calibration, ShortSamplesAreLeftOutBeforeTheyAreCounted) {
  write_calibration(path(), 5, 8, 100, 4);
  set_values("lengths", {{0, 3}, {2, 5}, {3, 4}}, true);
  const CalibrationData data = read_calibration(path(), {.limit = 2, .min_length = 5}, 100);
  ASSERT_EQ(data.samples.size(), 2u);
  EXPECT_EQ(data.rows, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(data.samples[1].size(), 5u);
  EXPECT_EQ(read_calibration(path(), {.min_length = 5}, 100).left_out, 2);
  EXPECT_THAT(complaint_of({.limit = 4, .min_length = 5}),
              AllOf(HasSubstr("holds 5 samples, 3 of them of at least 5 tokens, but 4 are asked for"),
                    HasSubstr("lower num_samples or min_length")));
  EXPECT_THAT(complaint_of({.min_length = 9}), HasSubstr("0 of them of at least 9 tokens"));
}

TEST_F(Calibration, SortingChangesTheOrderAndNothingElse) {
  write_calibration(path(), 5, 8, 100, 4);
  set_values("lengths", {{0, 3}, {2, 5}, {3, 3}}, true);
  const CalibrationData plain = read_calibration(path(), {.limit = 4}, 100);
  const CalibrationData sorted = read_calibration(path(), {.limit = 4, .longest_first = true}, 100);
  EXPECT_EQ(sorted.rows, (std::vector<std::int64_t>{1, 2, 0, 3}))
      << "equally long ones keep the file's order";
  for (std::size_t s = 0; s < 4; ++s)
    EXPECT_EQ(sorted.samples[s], plain.samples[static_cast<std::size_t>(sorted.rows[s])]);
}

TEST_F(Calibration, ChoiceFollowsTheSection) {
  CalibrationSection section;
  section.num_samples = 3;
  section.min_length = 10;
  section.pad_token = 7;
  section.order = "longest_first";
  const SampleChoice choice = choice_of(section);
  EXPECT_EQ(choice.limit, 3);
  EXPECT_EQ(choice.min_length, 10);
  EXPECT_EQ(choice.pad_token, 7);
  EXPECT_TRUE(choice.longest_first);
  EXPECT_FALSE(choice_of({}).longest_first);
}

}  // namespace
}  // namespace gptq::test
