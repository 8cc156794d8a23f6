#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/sha256.h"
#include "io/safetensors_writer.h"
#include "support/temp_directory.h"

namespace gptq::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

TensorInfo described(DType dtype, std::vector<std::int64_t> shape) {
  return {dtype, std::move(shape), "", 0, 0};
}

HostTensor counting(DType dtype, std::vector<std::int64_t> shape, int first) {
  HostTensor tensor = make_tensor(dtype, std::move(shape));
  for (std::size_t i = 0; i < tensor.storage.size(); ++i) tensor.storage.data()[i] = std::byte(first + i);
  return tensor;
}

std::vector<std::pair<std::string, TensorInfo>> three_tensors() {
  return {{"half", described(DType::f16, {3})},
          {"words", described(DType::i32, {2, 2})},
          {"byte", described(DType::u8, {1})}};
}

TEST(SafetensorsWriter, RoundTripInAnyOrder) {
  const TempDirectory directory;
  const fs::path path = directory / "model.safetensors";
  const HostTensor half = counting(DType::f16, {3}, 1);
  const HostTensor words = counting(DType::i32, {2, 2}, 50);
  const HostTensor byte = counting(DType::u8, {1}, 99);
  SafetensorsWriter writer(path, three_tensors());
  writer.write("byte", byte);
  EXPECT_FALSE(writer.complete());
  writer.write("words", words);
  writer.write("half", half);
  EXPECT_TRUE(writer.complete());
  EXPECT_FALSE(fs::exists(path)) << "visible before finish()";
  const std::string hash = writer.finish();
  EXPECT_EQ(hash, sha256_of_file(path));
  EXPECT_FALSE(fs::exists(path.string() + ".partial"));
  EXPECT_EQ(fs::file_size(path), writer.bytes());
  EXPECT_EQ(fs::file_size(path), safetensors_file_bytes(three_tensors()));

  const SafetensorsReader reader(directory.path());
  for (const auto& [name, tensor] :
       {std::pair<std::string, const HostTensor*>{"half", &half}, {"words", &words}, {"byte", &byte}}) {
    const HostTensor found = reader.read(name);
    EXPECT_EQ(found.dtype, tensor->dtype);
    EXPECT_EQ(found.shape, tensor->shape);
    EXPECT_EQ(std::memcmp(found.storage.data(), tensor->storage.data(), found.storage.size()), 0) << name;
    EXPECT_EQ(reader.info(name).offset % size_of(tensor->dtype), 0u) << name << " is not aligned";
  }
}

TEST(SafetensorsWriter, HeaderIsPaddedAndSaysPt) {
  const TempDirectory directory;
  {
    SafetensorsWriter writer(directory / "a.safetensors", {{"x", described(DType::u8, {1})}});
    writer.write("x", counting(DType::u8, {1}, 0));
    writer.finish();
  }
  std::ifstream file(directory / "a.safetensors", std::ios::binary);
  std::uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), 8);
  std::string header(length, '\0');
  file.read(header.data(), static_cast<std::streamsize>(length));
  EXPECT_EQ(length % 8, 0u);
  EXPECT_THAT(header, HasSubstr(R"("__metadata__":{"format":"pt"})"));
}

TEST(SafetensorsWriter, CopiesFromAnotherModel) {
  const TempDirectory directory;
  {
    SafetensorsWriter writer(directory / "model.safetensors", three_tensors());
    writer.write("half", counting(DType::f16, {3}, 1));
    writer.write("words", counting(DType::i32, {2, 2}, 50));
    writer.write("byte", counting(DType::u8, {1}, 99));
    writer.finish();
  }
  const SafetensorsReader source(directory.path());
  SafetensorsWriter writer(directory / "copy.safetensors", three_tensors());
  for (const char* name : {"byte", "half", "words"}) writer.copy(name, source);
  EXPECT_EQ(writer.finish(), sha256_of_file(directory / "model.safetensors"));
}

TEST(SafetensorsWriter, WithoutFinishNothingStays) {
  const TempDirectory directory;
  {
    SafetensorsWriter writer(directory / "a.safetensors", three_tensors());
    writer.write("half", counting(DType::f16, {3}, 1));
    EXPECT_TRUE(fs::exists(directory / "a.safetensors.partial"));
    EXPECT_THROW(writer.finish(), Error) << "two tensors are missing";
  }
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(SafetensorsWriter, RefusesWhatWasNotAnnounced) {
  const TempDirectory directory;
  SafetensorsWriter writer(directory / "a.safetensors", three_tensors());
  EXPECT_THROW(writer.write("other", counting(DType::u8, {1}, 0)), Error);
  EXPECT_THROW(writer.write("byte", counting(DType::u8, {2}, 0)), Error);
  EXPECT_THROW(writer.write("byte", counting(DType::i8, {1}, 0)), Error);
  writer.write("byte", counting(DType::u8, {1}, 0));
  EXPECT_THROW(writer.write("byte", counting(DType::u8, {1}, 0)), Error);
}

TEST(SafetensorsWriter, HonoursTheUmask) {
  const TempDirectory directory;
  const mode_t before = umask(0027);
  {
    SafetensorsWriter writer(directory / "a.safetensors", {{"x", described(DType::u8, {1})}});
    writer.write("x", counting(DType::u8, {1}, 0));
    writer.finish();
  }
  umask(before);
  struct stat status {};
  ASSERT_EQ(stat((directory / "a.safetensors").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0640u);
}

TEST(SafetensorsWriter, UnwritablePlaceNamesTheFile) {
  const TempDirectory directory;
  std::ofstream(directory / "file") << "x";
  try {
    const SafetensorsWriter writer(directory / "file" / "a.safetensors", three_tensors());
    FAIL() << "a path below a file was accepted";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("a.safetensors.partial"), HasSubstr("not a directory")));
  }
}

/// A limit on the file size stands in for a full disk: it needs no privileges and fails in the same place.
TEST(SafetensorsWriter, RunningOutOfRoomLeavesNothing) {
  const TempDirectory directory;
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    const SafetensorsWriter writer(directory / "a.safetensors", {{"x", described(DType::u8, {1 << 20})}});
  } catch (const IoError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, before);
  EXPECT_THAT(message, AllOf(HasSubstr("a.safetensors.partial"), HasSubstr("bytes"), HasSubstr("ulimit")));
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

}  // namespace
}  // namespace gptq::test
