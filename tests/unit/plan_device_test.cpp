#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>

#include "base/error.h"
#include "pipeline/plan.h"
#include "support/temp_directory.h"
#include "unit/hollow_model.h"

namespace gptq::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t kGB = 1'000'000'000;

/// 128 samples of 2048 tokens for Llama-3-8B's shape on GPUs that are not here.
class DevicePlan : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TempDirectory>();
    write_hollow_model(directory_->path(), {});
    model_ = std::make_unique<ModelWeights>(directory_->path());
    model_->check();
  }
  static void TearDownTestSuite() {
    model_.reset();
    directory_.reset();
  }

  PlanRequest request(std::int64_t device_bytes, int ranks = 1, int ranks_on_device = 1) const {
    PlanRequest request{job_, *model_, std::vector<std::int64_t>(128, 2048), ranks, DType::bf16};
    request.device = PlannedDevice::absent(device_bytes, ranks_on_device, ranks);
    request.node_memory_bytes = 1000 * kGB;
    request.ranks_on_node = ranks;
    return request;
  }

  static std::string refusal(const PlanRequest& request) {
    try {
      require_fit(request, make_plan(request));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  }

  JobConfig job_;
  static std::unique_ptr<TempDirectory> directory_;
  static std::unique_ptr<ModelWeights> model_;
};

std::unique_ptr<TempDirectory> DevicePlan::directory_;
std::unique_ptr<ModelWeights> DevicePlan::model_;

TEST_F(DevicePlan, EightBillionParametersNeedLessThanFortyGigabytes) {
  const Plan plan = make_plan(request(80 * kGB));
  std::cout << plan.text(0, 1e9);
  EXPECT_EQ(plan.chunk_tokens, 16384);
  EXPECT_EQ(plan.activation_place, Place::device);
  EXPECT_LT(plan.device_memory.peak_bytes, 40 * kGB);
  EXPECT_EQ(plan.host.activation_bytes, 0);

  // By hand: 262,144 tokens of 4096 floats and 14336 bf16; two blocks of 218,103,808 weights; n = 14336.
  EXPECT_EQ(plan.device_memory.activation_bytes, 262144LL * (4 * 4096 + 2 * 14336));
  EXPECT_EQ(plan.device_memory.weight_bytes, 2 * 2 * 218103808LL);
  EXPECT_GE(plan.device_memory.scratch_bytes, 16384LL * 2 * (4096 + 1024 + 1024 + 2 * 14336));
  const std::int64_t square = 14336LL * 14336;
  EXPECT_GT(plan.device_memory.factor_bytes, 8 * square / 2 + 4 * square + 8 * square);
  EXPECT_LT(plan.device_memory.factor_bytes, 17 * square);
}

TEST_F(DevicePlan, PeakIsNotTheSumOfWhatNeverCoexists) {
  const DeviceMemory memory = make_plan(request(80 * kGB)).device_memory;
  EXPECT_EQ(memory.quantizing_bytes(),
            std::max({memory.sum_bytes, memory.factor_bytes, memory.solve_bytes, memory.replace_bytes}));
  EXPECT_EQ(memory.peak_bytes, memory.library_bytes + memory.activation_bytes + memory.weight_bytes +
                                   memory.scratch_bytes + memory.quantizing_bytes());
}

// A quarter of 128 samples of 2048 tokens; the head has 128,256 rows of 4096.
TEST_F(DevicePlan, HeldOutSamplesHaveAStreamOfTheirOwnWhereNoReferenceGoes) {
  const Plan before = make_plan(request(80 * kGB));
  EXPECT_EQ(before.reference, ReferenceStream::none);
  EXPECT_EQ(before.device_memory.loss_bytes, 0);
  job_.calibration.held_out = 0.25;
  const std::int64_t stream = 4LL * 4096 * 32 * 2048;
  const Plan plan = make_plan(request(80 * kGB));
  EXPECT_EQ(plan.reference, ReferenceStream::held_out);
  EXPECT_EQ(plan.held_out_tokens, 32 * 2048);
  EXPECT_EQ(plan.device_memory.activation_bytes, before.device_memory.activation_bytes + stream);
  EXPECT_EQ(plan.checkpoint_bytes, before.checkpoint_bytes + stream);
  EXPECT_EQ(plan.device_memory.scratch_bytes, before.device_memory.scratch_bytes + 16384LL * 2 * 2 * 14336);
  EXPECT_GT(plan.device_memory.loss_bytes, 2LL * 128256 * 4096);
  EXPECT_GT(plan.flops.held_out, 0.25 * before.flops.forward);
  EXPECT_EQ(make_plan(request(80 * kGB, 4)).device_memory.activation_bytes,
            before.device_memory.activation_bytes / 4 + stream)
      << "one rank has them all";
  const Plan on_cpu = make_plan(request(0));
  EXPECT_GT(on_cpu.host.loss_bytes, 2 * 2LL * 128256 * 4096);

  job_.quantization.correction_alpha = 1;
  const Plan corrected = make_plan(request(80 * kGB));
  EXPECT_EQ(corrected.reference, ReferenceStream::all);
  EXPECT_EQ(corrected.device_memory.activation_bytes, 2 * before.device_memory.activation_bytes);
  EXPECT_EQ(corrected.device_memory.loss_bytes, plan.device_memory.loss_bytes);
}

TEST_F(DevicePlan, HeldOutTokensEnterNoHessian) {
  const Plan all = make_plan(request(80 * kGB));
  job_.calibration.held_out = 0.25;
  EXPECT_DOUBLE_EQ(make_plan(request(80 * kGB)).flops.hessian, 0.75 * all.flops.hessian);
}

// The full-precision stream still needs what a quantized layer has replaced.
TEST_F(DevicePlan, CorrectionKeepsABlocksOriginalWeights) {
  const std::int64_t block = 2LL * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336);
  const Plan on_gpu = make_plan(request(80 * kGB)), on_cpu = make_plan(request(0));
  job_.quantization.correction_alpha = 1;
  EXPECT_EQ(make_plan(request(80 * kGB)).device_memory.weight_bytes,
            on_gpu.device_memory.weight_bytes + block);
  EXPECT_EQ(make_plan(request(0)).host.weight_bytes, on_cpu.host.weight_bytes + block);
}

TEST_F(DevicePlan, ActivationsGoToTheDeviceThenToTheHostThenToDisk) {
  EXPECT_EQ(make_plan(request(40 * kGB)).activation_place, Place::device);
  const Plan small = make_plan(request(16 * kGB));
  EXPECT_EQ(small.activation_place, Place::host);
  EXPECT_LT(small.device_memory.peak_bytes, 16 * kGB);
  EXPECT_GT(small.host.activation_bytes, 11 * kGB);
  PlanRequest poor = request(16 * kGB);
  poor.node_memory_bytes = 12 * kGB;
  job_.checkpoint.enabled = false;
  EXPECT_EQ(make_plan(poor).activation_place, Place::disk);
  EXPECT_EQ(make_plan(poor).host.activation_bytes, 0);
}

TEST_F(DevicePlan, FivePercentAreSpared) {
  const std::int64_t peak = make_plan(request(80 * kGB)).device_memory.peak_bytes;
  PlanRequest tight = request(80 * kGB);
  tight.device.memory_bytes = peak + peak / 20 + 1;
  EXPECT_EQ(make_plan(tight).activation_place, Place::device);
  tight.device.memory_bytes = peak + peak / 25;
  EXPECT_EQ(make_plan(tight).activation_place, Place::host);
}

TEST_F(DevicePlan, APlaceThatWasAskedForIsKeptOrRefused) {
  job_.compute.activations = "device";
  EXPECT_THAT(refusal(request(16 * kGB)),
              AllOf(HasSubstr("does not fit the device"), HasSubstr("compute.activations: host (")));
  EXPECT_EQ(refusal(request(80 * kGB)), "");
}

TEST_F(DevicePlan, RefusalNamesWhatWouldFit) {
  job_.calibration.chunk_tokens = 65536;
  const std::string text = refusal(request(9 * kGB));
  EXPECT_THAT(text, AllOf(HasSubstr("a rank needs"), HasSubstr("it can have 8.45 GB"),
                          HasSubstr("calibration.chunk_tokens: ")));
  EXPECT_THAT(refusal(request(3 * kGB)),
              HasSubstr("No setting of this job makes it fit: with compute.activations: host"));
}

TEST_F(DevicePlan, RanksOnOneDeviceShareItsMemory) {
  const std::string text = refusal(request(16 * kGB, 4, 4));
  EXPECT_THAT(text, AllOf(HasSubstr("4 ranks share the device"), HasSubstr("a GPU for each rank")));
  EXPECT_EQ(refusal(request(16 * kGB, 4, 1)), "");
  EXPECT_EQ(make_plan(request(80 * kGB, 2, 2)).device.memory_bytes, 40 * kGB - 550'000'000);
}

TEST_F(DevicePlan, MoreRanksHoldFewerTokensEach) {
  const DeviceMemory one = make_plan(request(80 * kGB)).device_memory;
  const DeviceMemory four = make_plan(request(80 * kGB, 4)).device_memory;
  EXPECT_EQ(four.activation_bytes, one.activation_bytes / 4);
  EXPECT_EQ(four.factor_bytes, one.factor_bytes);
}

TEST_F(DevicePlan, WithoutTrueSequentialASecondResidualStreamIsKept) {
  const Plan before = make_plan(request(80 * kGB));
  const Plan before_on_cpu = make_plan(request(0));
  job_.quantization.true_sequential = false;
  const std::int64_t stream = 262144LL * 4 * 4096;
  const Plan after = make_plan(request(80 * kGB));
  EXPECT_EQ(after.device_memory.activation_bytes - before.device_memory.activation_bytes, stream);
  EXPECT_EQ(after.flops.forward, 2 * before.flops.forward);
  EXPECT_EQ(make_plan(request(0)).host.activation_bytes - before_on_cpu.host.activation_bytes, stream);
}

TEST_F(DevicePlan, ACpuHasNoDeviceFigures) {
  PlanRequest on_cpu = request(0);
  const Plan plan = make_plan(on_cpu);
  EXPECT_EQ(plan.chunk_tokens, 2048);
  EXPECT_EQ(plan.device_memory.peak_bytes, 0);
  EXPECT_THAT(plan.text(1e12, 1e9), Not(HasSubstr("device memory")));
  EXPECT_GT(plan.host.hessian_bytes, 0);
  on_cpu.node_memory_bytes = 10 * kGB;
  EXPECT_EQ(make_plan(on_cpu).activation_place, Place::disk);
}

TEST_F(DevicePlan, ANodeThatIsTooSmallIsRefused) {
  PlanRequest crowded = request(0, 8);
  crowded.node_memory_bytes = 30 * kGB;
  EXPECT_THAT(refusal(crowded),
              AllOf(HasSubstr("8 rank(s) share 30.00 GB"), HasSubstr("of the ranks a node")));
}

TEST_F(DevicePlan, RoundToNearestNeedsLittle) {
  job_.quantization.method = "rtn";
  PlanRequest rtn = request(80 * kGB);
  rtn.sample_lengths.clear();
  const Plan plan = make_plan(rtn);
  EXPECT_LT(plan.device_memory.peak_bytes, 4 * kGB);
  EXPECT_EQ(plan.flops.total(), 0);
  EXPECT_EQ(plan.host.embedding_bytes, 2 * 128256LL * 4096) << "the root looks through it";
}

// Found with Gemma 3, whose embedding is most of the model: 137 MB predicted, 368 MB taken.
TEST_F(DevicePlan, RoundToNearestLooksThroughTheTablesToo) {
  const std::int64_t embedding = make_plan(request(0)).host.embedding_bytes;
  EXPECT_GT(embedding, 0);
  job_.quantization.method = "rtn";
  PlanRequest rtn = request(0);
  rtn.sample_lengths.clear();
  const Plan plan = make_plan(rtn);
  EXPECT_EQ(plan.host.embedding_bytes, embedding);
  EXPECT_GE(plan.host.peak_bytes, plan.host.embedding_bytes);
}

TEST_F(DevicePlan, JsonHoldsTheDevice) {
  const std::string json = to_json({make_plan(request(80 * kGB)), 0, 1e9});
  EXPECT_THAT(json,
              AllOf(HasSubstr("\"device\""), HasSubstr("\"factor_bytes\""), Not(HasSubstr("\"seconds\""))));
  EXPECT_THAT(to_json({make_plan(request(80 * kGB)), 4e14, 1e9}), HasSubstr("\"seconds\""));
}

}  // namespace
}  // namespace gptq::test
