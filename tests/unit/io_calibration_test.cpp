#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/sha256.h"
#include "io/calibration.h"
#include "io/vocabulary.h"
#include "io/hdf5_handle.h"
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
      read_calibration(path(), limit, vocab);
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
    for (const char* name : {"input_ids", "lengths"}) {
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

  TempDirectory directory_;
};

TEST_F(Calibration, RoundTrip) {
  write_calibration(path(), 5, 16, 100, 7);
  const CalibrationData data = read_calibration(path(), 0, 100);
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
  const CalibrationData all = read_calibration(path(), 0, 100);
  const CalibrationData some = read_calibration(path(), 2, 100);
  ASSERT_EQ(some.samples.size(), 2u);
  EXPECT_EQ(some.samples[1], all.samples[1]);
  EXPECT_EQ(some.sha256, all.sha256);
  EXPECT_THAT(complaint(6), AllOf(HasSubstr("holds 5 samples"), HasSubstr("6 are asked for")));
}

TEST_F(Calibration, PaddingIsDropped) {
  write_calibration(path(), 8, 16, 100, 3, true);
  const CalibrationData data = read_calibration(path(), 0, 100);
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
  EXPECT_EQ(read_calibration(path(), 0, 100).source, "a file");
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
  edit([](hid_t file) { replace_integer(file, "version", 2); });
  EXPECT_THAT(complaint(), HasSubstr("format version 2"));
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
  EXPECT_THROW(read_calibration(path(), 0, 100), Error);
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

// Found when evaluating GPTQModel's output: it saves the tokenizer again, in other bytes.
TEST_F(Tokenizer, SavedAgainInAnotherFormIsTheSame) {
  write_tokenizer(R"({"model": {"vocab": {"\u00e9": 0, "b": 1}}, "added_tokens": [{"id": 1, "content": "b"}]})");
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

}  // namespace
}  // namespace gptq::test
