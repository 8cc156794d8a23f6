// Collectives on device memory without a device: through host memory, and in pieces, whose borders must not
// show. (NCCL: tests/mpi/nccl.)

#include "comm/device_collectives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "collectives_cases.h"
#include "comm/mpi_communicator.h"
#include "mpi_world.h"

namespace gptq::test {
namespace {

/// Pretends that memory is a device's: counts what is copied, and may fail at a copy.
struct FakeCopies {
  int downloads = 0;
  int uploads = 0;
  std::size_t largest = 0;
  std::size_t allocated = 0;
  int failing_upload = 0;

  DeviceCopies copies() {
    return {[this](void* host, const void* device, std::size_t bytes) {
              ++downloads;
              largest = std::max(largest, bytes);
              std::memcpy(host, device, bytes);
            },
            [this](void* device, const void* host, std::size_t bytes) {
              if (++uploads == failing_upload) throw DeviceError("the device fell off");
              largest = std::max(largest, bytes);
              std::memcpy(device, host, bytes);
            },
            {}};
  }

  DeviceCopies pinned_copies() {
    DeviceCopies all = copies();
    all.allocate_host = [this](std::size_t bytes) {
      allocated += bytes;
      return DeviceBuffer(new std::byte[bytes], bytes, nullptr,
                          [](void*, std::byte* data, std::size_t) { delete[] data; });
    };
    return all;
  }
};

TEST(HostCollectives, SumsAndBroadcasts) {
  const auto collectives = make_host_collectives(world());
  EXPECT_FALSE(collectives->overlaps());
  check_all(*collectives, world());
  collectives->check();
  collectives->wait();
}

TEST(StagedCollectives, SumsAndBroadcastsOverPieceBorders) {
  for (const std::size_t piece : {8, 24, 800, 1 << 20}) {
    SCOPED_TRACE(piece);
    FakeCopies fake;
    const auto collectives = make_staged_collectives(world(), fake.copies(), piece);
    check_all(*collectives, world());
    EXPECT_LE(fake.largest, piece);
    EXPECT_FALSE(collectives->overlaps());
  }
}

TEST(StagedCollectives, EveryByteIsCopiedOnceAndHostMemoryIsBounded) {
  FakeCopies fake;
  const auto collectives = make_staged_collectives(world(), fake.pinned_copies(), 80);
  std::vector<std::int64_t> values(25, world().rank());
  collectives->all_reduce_sum(values.data(), values.size());
  const bool alone = world().size() == 1;
  EXPECT_EQ(fake.downloads, alone ? 0 : 3);
  EXPECT_EQ(fake.uploads, alone ? 0 : 3);
  EXPECT_EQ(fake.allocated, alone ? 0u : 80u);
  fake.downloads = fake.uploads = 0;
  const int root = world().size() - 1;
  collectives->broadcast(values.data(), 200, root);
  EXPECT_EQ(fake.downloads, alone || world().rank() != root ? 0 : 3) << "only the root's memory is read";
  EXPECT_EQ(fake.uploads, alone || world().rank() == root ? 0 : 3) << "only the others' is written";
}

TEST(StagedCollectives, AFailedCopyIsTheDevicesError) {
  if (world().size() == 1) GTEST_SKIP() << "nothing is copied";
  FakeCopies fake;
  fake.failing_upload = 2;
  const auto collectives = make_staged_collectives(world(), fake.copies(), 8);
  std::vector<std::int64_t> values(2, 1);
  EXPECT_THROW(collectives->all_reduce_sum(values.data(), values.size()), DeviceError);
}

TEST(DeviceIds, AllDifferentAndNoneEmpty) {
  const std::string mine = "GPU-" + std::to_string(world().rank());
  const bool last = world().rank() == world().size() - 1;
  EXPECT_TRUE(every_rank_has_its_own_device(world(), mine));
  EXPECT_EQ(every_rank_has_its_own_device(world(), "GPU-same"), world().size() == 1);
  EXPECT_FALSE(every_rank_has_its_own_device(world(), last ? "" : mine));
  EXPECT_FALSE(every_rank_has_its_own_device(world(), ""));
}

TEST(NcclCollectives, AMissingPluginIsToldOnEveryRank) {
  setenv("GPTQ_HPC_NCCL_PLUGIN", world().rank() == 0 ? "./no/such.so" : "/proc/self/maps", 1);
  try {
    make_nccl_collectives(world(), {});
    FAIL() << "no exception on rank " << world().rank();
  } catch (const CollectiveError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::communication);
    EXPECT_THAT(error.what(), testing::HasSubstr("rank 0: NCCL cannot be used: ./no/such.so"));
  }
  unsetenv("GPTQ_HPC_NCCL_PLUGIN");
}

// The plugin beside the program, as built: all ranks on device 0. Without a device, and with one that several
// ranks would share, it fails on every rank with the same words; a single rank with a device gets its sum.
TEST(NcclCollectives, ThePluginStartsOrFailsOnAllRanksAlike) {
  if (std::getenv("GPTQ_HPC_TEST_NCCL") == nullptr) GTEST_SKIP() << "no NCCL plugin was built";
  setenv("GPTQ_HPC_NCCL_PLUGIN", std::getenv("GPTQ_HPC_TEST_NCCL"), 1);
  std::string problem;
  const Stopwatch started;
  try {
    const auto collectives = make_nccl_collectives(world(), {.timeout = 60});
    EXPECT_THAT(collectives->describe(), testing::StartsWith("nccl 2."));
    collectives->all_reduce_sum(nullptr, 0);
    collectives->wait();
  } catch (const CollectiveError& error) {
    problem = error.what();
    EXPECT_THAT(problem,
                testing::AnyOf(testing::HasSubstr("CUDA failed"), testing::HasSubstr("NCCL failed")));
  }
  unsetenv("GPTQ_HPC_NCCL_PLUGIN");
  EXPECT_LT(started.seconds(), 55);
  const auto problems = world().all_gather(std::as_bytes(std::span(problem)));
  for (const auto& other : problems) EXPECT_EQ(other, problems.front());
}

TEST(WaitOutside, NamesTheRankThatDoesNotCome) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  constexpr RankWatch::Timing kTiming{0.5, 0.5, 0.6};
  MpiCommunicator comm(MPI_COMM_WORLD, kTiming);
  const Stopwatch waited;
  if (world().rank() < world().size() - 1) {
    std::string text;
    try {
      comm.wait_outside("nothing", [&] { return std::optional(waited.seconds()); });
    } catch (const CommError& error) {
      text = error.what();
    }
    EXPECT_LT(waited.seconds(), 3);
    if (comm.is_root()) {
      EXPECT_THAT(text, testing::StartsWith("rank " + std::to_string(world().size() - 1) + " (process "));
    }
  }
  world().barrier();
}

// A rank at work on its own is not late, however often it starts to wait.
TEST(WaitOutside, SecondsThatBeginAnewAreNoTimeout) {
  MpiCommunicator comm(MPI_COMM_WORLD, {0.5, 0.5, 0.6});
  const Stopwatch waited;
  comm.wait_outside("pieces", [&]() -> std::optional<double> {
    if (waited.seconds() > 1.2) return std::nullopt;
    return std::fmod(waited.seconds(), 0.3);
  });
  EXPECT_GE(waited.seconds(), 1.2);
}

// Messages of more than 2^31 bytes or elements differ from these only in the size of the pieces.
TEST(Communicator, MessagesOfManyPiecesArriveWhole) {
  for (const MpiCommunicator::Pieces pieces :
       {MpiCommunicator::Pieces{16, 8, 1}, MpiCommunicator::Pieces{64, 100, 7}}) {
    MpiCommunicator comm(MPI_COMM_WORLD, {}, pieces);
    const auto collectives = make_host_collectives(comm);
    check_all(*collectives, comm);
    std::vector<float> magnitudes(101, static_cast<float>(comm.rank()));
    comm.all_reduce_max(std::span<float>(magnitudes));
    EXPECT_EQ(std::count(magnitudes.begin(), magnitudes.end(), static_cast<float>(comm.size() - 1)), 101);
  }
}

}  // namespace
}  // namespace gptq::test
