// A GPU that fails in the middle (by emulation): one clear message, nobody hangs, the last checkpoint counts.

#include <cstdlib>
#include <map>
#include <string>

#include "backend/cuda_plugin.h"
#include "base/error.h"
#include "job_fixture.h"
#include "support/places.h"

#ifdef GPTQ_TEST_EMULATION

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr int kDeviceError = static_cast<int>(ExitCode::device);

class DeviceFault : public JobTest {
 protected:
  void SetUp() override {
    JobTest::SetUp();
    set(kCudaPluginVariable, emulated_plugin());
    set("GPTQ_EMULATION_STREAMS", "lazy");  // errors appear long after the kernel was started
    set("GPTQ_HPC_NCCL_PLUGIN", "/nowhere/gptq_hpc_nccl.so");  // the real one knows no emulated streams
  }
  void TearDown() override {
    for (const std::string& name : set_) unsetenv(name.c_str());
  }

  void set(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    set_.push_back(name);
  }

  static int count(const std::string& text, const std::string& what) {
    int found = 0;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
    return found;
  }

 private:
  std::vector<std::string> set_;
};

TEST_F(DeviceFault, IsToldOnceWithRankDeviceAndPhaseAndTheJobGoesOnFromItsCheckpoint) {
  const std::vector<std::string> more{"--set", "compute.backend=cuda", "--set", "checkpoint.interval=0"};
  const auto undisturbed = hashes_of_run("undisturbed", 1, 1, more);
  ASSERT_FALSE(undisturbed.empty());

  set("GPTQ_EMULATION_FAULT", "0:60");
  std::vector<std::string> again = more;
  again.insert(again.end(), {"--set", "output.path=" + path("disturbed")});
  const ProgramResult failed = quantize(again);
  EXPECT_EQ(failed.exit_code, kDeviceError);
  EXPECT_THAT(failed.output,
              AllOf(HasSubstr("rank 0"), HasSubstr("cuda: Emulated GPU"), HasSubstr(", phase "),
                    HasSubstr("an illegal memory access was encountered"),
                    HasSubstr("a kernel failed and this process has lost the GPU")));
  EXPECT_EQ(count(failed.output, "illegal memory access"), 1) << failed.output;

  unsetenv("GPTQ_EMULATION_FAULT");
  const ProgramResult resumed = quantize(again);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("resuming from generation"));
  EXPECT_EQ(tensor_hashes(path("disturbed")), undisturbed);
}

TEST_F(DeviceFault, OfOneRankEndsTheOthers) {
  set("GPTQ_EMULATION_DEVICES", "2");
  set("GPTQ_EMULATION_FAULT", "1:30");
  const ProgramResult failed = quantize({"--set", "compute.backend=cuda"}, 2);
  EXPECT_EQ(failed.exit_code, kDeviceError) << failed.output;
  EXPECT_THAT(failed.output,
              AllOf(HasSubstr("rank 1"), HasSubstr("an illegal memory access"), HasSubstr(", phase ")));
  EXPECT_THAT(failed.output, Not(HasSubstr("gptq-hpc: rank 0")));
}

TEST_F(DeviceFault, InAnEvaluationIsToldWithItsPhase) {
  set("GPTQ_EMULATION_FAULT", "0:8");
  const ProgramResult failed =
      run_program({"eval", job(), "--set", "eval.model=" + path("model"), "--set", "compute.backend=cuda"});
  EXPECT_EQ(failed.exit_code, kDeviceError) << failed.output;
  EXPECT_THAT(failed.output,
              AllOf(HasSubstr("rank 0"), HasSubstr("illegal memory access"), HasSubstr("phase ")));
  EXPECT_EQ(count(failed.output, "illegal memory access"), 1) << failed.output;
}

TEST_F(DeviceFault, WithoutNcclRanksOnTheirOwnGpusExchangeThroughHostMemory) {
  set("GPTQ_EMULATION_DEVICES", "2");
  const std::vector<std::string> more{"--set", "compute.backend=cuda"};
  const auto alone = hashes_of_run("alone", 1, 1, more);
  std::vector<std::string> together = more;
  together.insert(together.end(), {"--set", "output.path=" + path("together")});
  const ProgramResult result = quantize(together, 2);
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("exchange data through host memory and MPI"));
  EXPECT_EQ(tensor_hashes(path("together")), alone);
}

}  // namespace
}  // namespace gptq::test

#endif
