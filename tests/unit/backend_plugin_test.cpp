#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda_plugin.h"
#include "base/error.h"
#include "base/plugin.h"
#include "support/places.h"
#include "support/temp_directory.h"
#include "support/test_backend.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

/// An environment variable for the time of a test.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name); before != nullptr) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_)
      setenv(name_, before_->c_str(), 1);
    else
      unsetenv(name_);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

/// The message of the DeviceError that asking for CUDA ends with.
std::string refusal() {
  try {
    make_backend({"cuda", 1});
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "no DeviceError";
}

// The plugin that nvcc made, in contrast to the emulated one.
TEST(RealCudaPlugin, StartsOrSaysWhyThereIsNoGpuToUse) {
  const char* path = std::getenv("GPTQ_HPC_TEST_CUDA");
  if (path == nullptr) GTEST_SKIP() << "not built: tools/test.sh builds it where nvcc is";
  const Variable plugin(kCudaPluginVariable, path);
  const std::string message = refusal();
  if (message == "no DeviceError") return;  // there is a GPU
  EXPECT_THAT(message, HasSubstr("compute.backend to cpu"));
  EXPECT_THAT(message, testing::ContainsRegex("NVIDIA driver|no GPU is visible"));
}

TEST(BackendPlugin, MissingFileIsNamed) {
  const Variable plugin(kCudaPluginVariable, "/nowhere/gptq_hpc_cuda.so");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("/nowhere/gptq_hpc_cuda.so"), HasSubstr("does not exist"),
                               HasSubstr(kCudaPluginVariable), HasSubstr("set compute.backend to cpu")));
}

TEST(BackendPlugin, FileThatIsNoLibraryIsNamed) {
  const TempDirectory folder;
  const std::string path = folder.path() / "broken.so";
  std::ofstream(path) << "no library";
  const Variable plugin(kCudaPluginVariable, path);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("broken.so cannot be opened"), HasSubstr("LD_LIBRARY_PATH")));
}

TEST(BackendPlugin, LibraryThatIsNoPluginIsRefused) {
  Dl_info libc{};
  ASSERT_NE(dladdr(reinterpret_cast<const void*>(&std::getenv), &libc), 0);
  const Variable plugin(kCudaPluginVariable, libc.dli_fname);
  EXPECT_THAT(refusal(), HasSubstr("is no such plugin of gptq-hpc"));
}

TEST(BackendPlugin, PluginOfAnotherBuildIsRefused) {
  const Variable plugin(kCudaPluginVariable, stale_plugin());
  EXPECT_THAT(refusal(), AllOf(HasSubstr("belongs to another build of gptq-hpc (0.0.1, "),
                               HasSubstr(std::string("this program is ") + plugin_identity())));
}

TEST(BackendPlugin, AutoTakesTheCpuWhereThePluginFails) {
  const Variable plugin(kCudaPluginVariable, "/nowhere/gptq_hpc_cuda.so");
  EXPECT_EQ(make_backend({"auto", 1})->name(), "cpu");
}

TEST(BackendPlugin, WithoutGpuCudaIsRefusedWithAdvice) {
  const Variable unnamed(kCudaPluginVariable, "");
  if (built_backends() == "cpu") {
    EXPECT_THAT(refusal(), HasSubstr("built without CUDA"));
    return;
  }
  const Variable hidden("CUDA_VISIBLE_DEVICES", "");
  EXPECT_THAT(refusal(), AllOf(testing::AnyOf(HasSubstr("no NVIDIA driver"), HasSubstr("no GPU is visible"),
                                              HasSubstr("driver of this node supports")),
                               HasSubstr("set compute.backend to cpu")));
  EXPECT_EQ(make_backend({"auto", 1})->name(), "cpu");
}

std::vector<std::int32_t> numbers(std::size_t count, int first) {
  std::vector<std::int32_t> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

class BackendMemory : public BackendTest {
 protected:
  std::vector<std::int32_t> fetch(const void* memory, std::size_t count) {
    std::vector<std::int32_t> values(count);
    backend().download(values.data(), memory, count * sizeof(std::int32_t));
    return values;
  }
};

TEST_P(BackendMemory, TellsWhatItIs) {
  EXPECT_EQ(backend().name(), GetParam());
  EXPECT_THAT(backend().describe(), StartsWith(std::string(GetParam()) + ": "));
  EXPECT_EQ(backend().threads(), 2);
  EXPECT_EQ(backend().device_id().empty(), backend().shares_host_memory());
  EXPECT_EQ(backend().native_queue() == nullptr, backend().shares_host_memory());
  EXPECT_GT(backend().memory_bytes(), 0);
  EXPECT_GT(backend().free_memory_bytes(), 0);
  EXPECT_LE(backend().free_memory_bytes(), backend().memory_bytes());
  EXPECT_GT(backend().peak_memory_bytes(), 0);
}

TEST_P(BackendMemory, CopiesOfAllSizesComeBackWhole) {
  // Around one pinned piece, around all of them, and odd sizes.
  for (const std::size_t bytes : {4u, 100u, (8u << 20) - 4, 8u << 20, (8u << 20) + 4, 33u << 20, 70000004u}) {
    const std::size_t count = bytes / 4;
    const std::vector<std::int32_t> values = numbers(count, static_cast<int>(bytes));
    const DeviceBuffer buffer = to_device(backend(), values.data(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_EQ(fetch(buffer.data(), count), values) << bytes << " bytes";
  }
  EXPECT_EQ(to_device(backend(), nullptr, 0).size(), 0u);
}

TEST_P(BackendMemory, ManySmallUploadsKeepTheirOrder) {
  constexpr std::size_t kCount = 3000;  // more than the pinned pieces hold
  const DeviceBuffer buffer = backend().allocate(kCount * 4);
  std::vector<std::int32_t> values(kCount);
  std::vector<std::int32_t> source(10000);
  const DeviceBuffer large = backend().allocate(source.size() * 4);
  for (std::size_t i = 0; i < kCount; ++i) {
    values[i] = static_cast<std::int32_t>(i * 7 + 1);
    std::int32_t value = values[i];
    backend().upload(buffer.as<std::int32_t>() + i, &value, 4);
    value = -1;  // the caller may reuse its memory at once
    source[i % source.size()] = values[i];
    backend().upload(large.data(), source.data(), source.size() * 4);
  }
  EXPECT_EQ(fetch(buffer.data(), kCount), values);
  EXPECT_EQ(fetch(large.data(), source.size()), source);
}

TEST_P(BackendMemory, CopyAndZeroAreInOrder) {
  const std::vector<std::int32_t> values = numbers(1000, 5);
  const DeviceBuffer first = to_device(backend(), values.data(), 4000);
  const DeviceBuffer second = backend().allocate(4000);
  backend().copy(second.data(), first.data(), 4000);
  backend().set_zero(first.data(), 2000);
  EXPECT_EQ(fetch(second.data(), 1000), values);
  std::vector<std::int32_t> half = values;
  std::fill_n(half.begin(), 500, 0);
  EXPECT_EQ(fetch(first.data(), 1000), half);
}

TEST_P(BackendMemory, ScratchGrowsAndStays) {
  void* small = backend().scratch(3, 1000);
  EXPECT_EQ(backend().scratch(3, 500), small);
  void* large = backend().scratch(3, 5 << 20);
  const std::vector<std::int32_t> values = numbers(1000, 9);
  backend().upload(large, values.data(), 4000);
  EXPECT_NE(backend().scratch(4, 1000), large);
  EXPECT_EQ(fetch(backend().scratch(3, 1000), 1000), values);
}

TEST_P(BackendMemory, QueuesPassBuffersToEachOther) {
  constexpr std::size_t kBytes = 4 << 20;
  const DeviceBuffer host_in = backend().allocate_host(kBytes);
  const DeviceBuffer host_out = backend().allocate_host(kBytes);
  const std::vector<std::int32_t> values = numbers(kBytes / 4, 3);
  std::copy(values.begin(), values.end(), host_in.as<std::int32_t>());
  const DeviceBuffer in = backend().allocate(kBytes);
  const DeviceBuffer out = backend().allocate(kBytes);
  backend().copy_in_queue(Queue::load, in.data(), host_in.data(), kBytes);
  backend().order_after(Queue::load, Queue::compute);
  backend().copy(out.data(), in.data(), kBytes);
  backend().order_after(Queue::compute, Queue::store);
  backend().copy_in_queue(Queue::store, host_out.data(), out.data(), kBytes);
  backend().synchronize();
  EXPECT_TRUE(std::equal(values.begin(), values.end(), host_out.as<std::int32_t>()));
  backend().download(host_in.data(), out.data(), kBytes);  // pinned memory takes a way of its own
  EXPECT_TRUE(std::equal(values.begin(), values.end(), host_in.as<std::int32_t>()));
}

TEST_P(BackendMemory, MemoryGivenBackDuringACopyIsNotReusedTooEarly) {
  constexpr std::size_t kBytes = 1 << 20;
  const std::vector<std::int32_t> values = numbers(kBytes / 4, 11);
  const DeviceBuffer host = backend().allocate_host(kBytes);
  {
    const DeviceBuffer buffer = to_device(backend(), values.data(), kBytes);
    backend().order_after(Queue::compute, Queue::store);
    backend().copy_in_queue(Queue::store, host.data(), buffer.data(), kBytes);
  }
  const DeviceBuffer next = backend().allocate(kBytes);
  backend().set_zero(next.data(), kBytes);
  backend().synchronize();
  EXPECT_TRUE(std::equal(values.begin(), values.end(), host.as<std::int32_t>()));
}

TEST_P(BackendMemory, DownloadSeesWhatKernelsDid) {
  std::vector<float> values{3, -5, 0, 2, 4, 1, 7, -8};
  const DeviceBuffer x = to_device(backend(), values.data(), 32);
  const DeviceBuffer maximum = backend().allocate(16);
  backend().set_zero(maximum.data(), 16);
  backend().kernels().column_max({x.data(), DType::f32, 2, 4, 4}, maximum.as<float>());
  std::vector<float> result(4);
  backend().download(result.data(), maximum.data(), 16);
  EXPECT_EQ(result, (std::vector<float>{4, 5, 7, 8}));
}

TEST_P(BackendMemory, RangesNest) {
  backend().enter_range("outer");
  backend().enter_range("inner");
  backend().leave_range();
  backend().leave_range();
}

TEST_P(BackendMemory, TooMuchIsRefusedWithFigures) {
  if (backend().shares_host_memory()) GTEST_SKIP() << "host memory is not counted by this backend";
  const std::int64_t wanted = backend().memory_bytes() * 2;
  try {
    backend().allocate(static_cast<std::size_t>(wanted));
    FAIL() << "allocated twice the device's memory";
  } catch (const DeviceError& error) {  // thrown in the plugin, caught here by its type
    EXPECT_EQ(error.exit_code(), ExitCode::device);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("out of memory on device 0"), HasSubstr("GiB wanted"),
                                    HasSubstr("gptq-hpc plan")));
  }
  const std::vector<std::int32_t> values = numbers(10, 1);  // and the device still works
  EXPECT_EQ(fetch(to_device(backend(), values.data(), 40).data(), 10), values);
}

GPTQ_BACKEND_SUITE(BackendMemory);

#ifdef GPTQ_TEST_EMULATION

TEST(BackendPlugin, AskedForByNameItLoads) {
  const Variable named(kCudaPluginVariable, emulated_plugin());
  EXPECT_EQ(make_backend({"cuda", 1})->name(), "cuda");
  EXPECT_EQ(make_backend({"auto", 1})->name(), "cuda");
  EXPECT_EQ(make_backend({"cpu", 1})->name(), "cpu");
}

TEST(BackendPlugin, OneRankADeviceCountedRound) {
  const Variable named(kCudaPluginVariable, emulated_plugin());
  EXPECT_EQ(make_backend({"cuda", 1, 0})->device_number(), 0);
  EXPECT_NO_THROW(make_backend({"cuda", 1, 5}));
}

TEST(BackendPlugin, EntryPointAndIdentityAreChecked) {
  const Variable named(kCudaPluginVariable, emulated_plugin());
  EXPECT_THAT(load_plugin(kCudaPluginFile, kCudaPluginVariable, kCudaPluginEntry).problem, IsEmpty());
  const Plugin other = load_plugin(kCudaPluginFile, kCudaPluginVariable, "no_such_entry");
  EXPECT_EQ(other.entry, nullptr);
  EXPECT_THAT(other.problem, HasSubstr("no_such_entry is not in it"));
  EXPECT_THAT(plugin_identity(), HasSubstr(", interface "));
}

#endif

}  // namespace
}  // namespace gptq::test
