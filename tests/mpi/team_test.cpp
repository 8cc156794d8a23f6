// Communicators that are parts of the world, messages, and what is made of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "comm/device_collectives.h"
#include "comm/mpi_communicator.h"
#include "mpi_world.h"

namespace gptq::test {
namespace {

using Bytes = std::vector<std::byte>;

/// Messages of a few bytes are large already, and go in pieces.
constexpr MpiCommunicator::Pieces kTinyPieces{64, 64, 40};

/// Bytes that tell from whom to whom they go.
Bytes letter(int from, int to, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(from * 67 + to * 31 + i * 7);
  return bytes;
}

std::vector<std::span<const std::byte>> spans_of(const std::vector<Bytes>& letters) {
  return {letters.begin(), letters.end()};
}

TEST(Split, TeamsKeepTheOrderAndDoNotMix) {
  const auto team = world().split(world().rank() % 2);
  EXPECT_EQ(team->rank(), world().rank() / 2);
  EXPECT_EQ(team->size(), (world().size() + 1 - world().rank() % 2) / 2);
  EXPECT_EQ(team->covers_world(), world().size() == 1);
  std::vector<std::int64_t> sum{world().rank(), 1};
  team->all_reduce_sum(sum);
  std::int64_t expected = 0;
  for (int rank = world().rank() % 2; rank < world().size(); rank += 2) expected += rank;
  EXPECT_EQ(sum[0], expected);
  EXPECT_EQ(sum[1], team->size());
  int root = world().rank();
  team->broadcast(&root, sizeof(root), 0);
  EXPECT_EQ(root, world().rank() % 2);
  const auto everyone = world().split(0);
  EXPECT_TRUE(everyone->covers_world());
}

TEST(Split, PartsOfPartsAndBackAgain) {
  const auto half = world().split(world().rank() < 2 ? 0 : 1);
  const auto alone = half->split(half->rank());
  EXPECT_EQ(alone->size(), 1);
  // Teams that not all ranks took part in making have numbers that differ between ranks; the world goes on.
  const auto again = world().split(world().rank() % 2);
  std::vector<std::int64_t> ones{1};
  again->all_reduce_sum(ones);
  EXPECT_EQ(ones[0], again->size());
  alone->barrier();
  half->barrier();
  world().barrier();
}

TEST(Split, TeamsWorkAtTheirOwnPace) {
  const auto team = world().split(world().rank() % 2);
  std::int64_t total = 0;
  for (int round = 0; round < 20 * (1 + world().rank() % 2); ++round) {
    std::vector<std::int64_t> values{round};
    team->all_reduce_sum(values);
    total += values[0];
  }
  const int rounds = 20 * (1 + world().rank() % 2);
  EXPECT_EQ(total, std::int64_t{team->size()} * rounds * (rounds - 1) / 2);
  world().barrier();
}

void check_scatter(Communicator& comm, std::size_t unit) {
  for (int root = 0; root < comm.size(); ++root) {
    std::vector<Bytes> parts;
    if (comm.rank() == root) {
      for (int to = 0; to < comm.size(); ++to)
        parts.push_back(letter(root, to, unit * static_cast<std::size_t>(to)));
    }
    const Bytes mine = comm.scatter(spans_of(parts), root);
    EXPECT_EQ(mine, letter(root, comm.rank(), unit * static_cast<std::size_t>(comm.rank())));
  }
}

TEST(Scatter, EachRankGetsItsPart) {
  MpiCommunicator pieces(MPI_COMM_WORLD, {}, kTinyPieces);
  for (const std::size_t unit : {0, 1, 40, 80, 1001}) check_scatter(pieces, unit);
  check_scatter(world(), 300'000);
  check_scatter(*world().split(world().rank() % 2), 1001);
}

void check_exchange(Communicator& comm, std::size_t unit) {
  const auto size = [&](int from, int to) { return unit * static_cast<std::size_t>((from + 2 * to) % 3); };
  std::vector<Bytes> parts;
  for (int to = 0; to < comm.size(); ++to) parts.push_back(letter(comm.rank(), to, size(comm.rank(), to)));
  const std::vector<Bytes> received = comm.all_to_all(spans_of(parts));
  ASSERT_EQ(received.size(), static_cast<std::size_t>(comm.size()));
  for (int from = 0; from < comm.size(); ++from) {
    EXPECT_EQ(received[static_cast<std::size_t>(from)], letter(from, comm.rank(), size(from, comm.rank())))
        << "from " << from;
  }
}

TEST(AllToAll, EveryPairExchangesItsOwnPart) {
  MpiCommunicator pieces(MPI_COMM_WORLD, {}, kTinyPieces);
  for (const std::size_t unit : {0, 1, 40, 1001}) check_exchange(pieces, unit);
  check_exchange(world(), 300'000);
  check_exchange(*world().split(world().rank() % 2), 1001);
}

TEST(Messages, OfOneTagArriveInTheirOrderAndTagsAreApart) {
  MpiCommunicator comm(MPI_COMM_WORLD, {}, kTinyPieces);
  const int to = (comm.rank() + 1) % comm.size();
  const int from = (comm.rank() + comm.size() - 1) % comm.size();
  constexpr int kCount = 12;
  std::vector<Bytes> sent, received;
  for (int i = 0; i < kCount; ++i) {
    sent.push_back(letter(comm.rank(), i, 100 + static_cast<std::size_t>(i)));
    received.emplace_back(100 + static_cast<std::size_t>(i));
  }
  std::vector<std::unique_ptr<Transfer>> transfers;
  // The tags are received in another order than they are sent.
  for (int i = 1; i < kCount; i += 2)
    transfers.push_back(comm.receive(received[static_cast<std::size_t>(i)], from, 1));
  for (int i = 0; i < kCount; ++i)
    transfers.push_back(comm.send(sent[static_cast<std::size_t>(i)], to, i % 2));
  for (int i = 0; i < kCount; i += 2)
    transfers.push_back(comm.receive(received[static_cast<std::size_t>(i)], from, 0));
  for (const auto& transfer : transfers) transfer->wait();
  for (const auto& transfer : transfers) EXPECT_TRUE(transfer->done());
  for (int i = 0; i < kCount; ++i) {
    EXPECT_EQ(received[static_cast<std::size_t>(i)], letter(from, i, 100 + static_cast<std::size_t>(i)));
  }
}

TEST(Messages, WhatIsNotSentYetIsNotDone) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  const auto pair = world().split(world().rank() / 2);
  if (pair->size() == 2) {
    Bytes data(10);
    if (pair->rank() == 1) {
      const auto transfer = pair->receive(data, 0, 0);
      EXPECT_FALSE(transfer->done());
      pair->barrier();
      transfer->wait();
      EXPECT_EQ(data, letter(0, 1, 10));
    } else {
      pair->barrier();
      const Bytes sent = letter(0, 1, 10);
      pair->send(sent, 1, 0)->wait();
    }
  }
  world().barrier();
}

TEST(Messages, ASizeThatDiffersIsAnError) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  // Of what is sent and expected in bytes; pieces have 40.
  const std::vector<std::pair<std::size_t, std::size_t>> sizes = {{10, 12}, {12, 10}, {0, 5},  {5, 0},
                                                                  {80, 40}, {40, 80}, {41, 81}};
  for (const auto& [sent, expected] : sizes) {
    SCOPED_TRACE(testing::Message() << sent << " bytes for " << expected);
    MpiCommunicator comm(MPI_COMM_WORLD, {}, kTinyPieces);
    if (comm.rank() == 0) {
      const Bytes data = letter(0, 1, sent);
      const auto message = comm.send(data, 1, 3);
      world().barrier();
    } else {
      if (comm.rank() == 1) {
        Bytes room(expected);
        EXPECT_THROW(comm.receive(room, 0, 3)->wait(), CommError);
      }
      world().barrier();
    }
  }
}

TEST(Messages, OfNoBytesKeepTheirPlaceAmongOthers) {
  const int to = (world().rank() + 1) % world().size();
  const int from = (world().rank() + world().size() - 1) % world().size();
  const Bytes sent = letter(world().rank(), to, 9);
  Bytes received(9);
  const auto empty = world().receive({}, from, 2), full = world().receive(received, from, 2);
  const auto first = world().send({}, to, 2), second = world().send(sent, to, 2);
  for (const auto* transfer : {&empty, &full, &first, &second}) (*transfer)->wait();
  EXPECT_EQ(received, letter(from, world().rank(), 9));
}

TEST(BeginMax, GoesOnBesideOtherCollectives) {
  std::vector<std::int64_t> early{world().rank(), -world().rank()}, late{100 + world().rank()};
  const auto first = world().begin_max(early);
  std::vector<std::int64_t> ones{1};
  world().all_reduce_sum(ones);
  const auto second = world().begin_max(late);
  world().barrier();
  second->wait();
  first->wait();
  EXPECT_TRUE(first->done());
  EXPECT_EQ(ones[0], world().size());
  EXPECT_EQ(early, (std::vector<std::int64_t>{world().size() - 1, 0}));
  EXPECT_EQ(late[0], 99 + world().size());
}

TEST(BeginMax, OneThatIsGivenUpDisturbsNobody) {
  {
    MpiCommunicator comm(MPI_COMM_WORLD);
    std::vector<std::int64_t> values(1000, comm.rank());
    if (comm.rank() > 0) {
      const auto given_up = comm.begin_max(values);  // cannot be done before the first rank comes
      values.assign(1000, -1);
    }
    world().barrier();
    if (comm.is_root()) {
      comm.begin_max(values)->wait();
      EXPECT_EQ(values.back(), comm.size() - 1);
    } else {
      EXPECT_EQ(values, std::vector<std::int64_t>(1000, -1)) << "its memory is the caller's again";
    }
    world().barrier();
  }
  MpiCommunicator next(MPI_COMM_WORLD);
  std::vector<std::int64_t> ones{1};
  next.all_reduce_sum(ones);
  EXPECT_EQ(ones[0], next.size());
}

TEST(RunOn, AnyRankOfTheWorldMayFailForAll) {
  const int root = world().size() - 1;
  std::vector<std::int64_t> runs{0};
  run_on(world(), root, [&] { runs[0] = world().rank() == root ? 1 : 100; });
  world().all_reduce_sum(runs);
  EXPECT_EQ(runs[0], 1);
  try {
    run_on(world(), root, [] { throw NumericalError("too {}", "large"); });
    FAIL() << "no exception on rank " << world().rank();
  } catch (const TeamError&) {
    FAIL() << "the world is no smaller team";
  } catch (const CollectiveError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::numerical);
    EXPECT_STREQ(error.what(), "too large");
  }
}

/// What a rank of a team of which one failed makes of it.
enum class Heard { nothing, collective, team, alone };

Heard heard_of(const std::function<void()>& action, ExitCode code, const char* text = "no room") {
  try {
    action();
    return Heard::nothing;
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), code);
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    if (dynamic_cast<const TeamError*>(&error) != nullptr) return Heard::team;
    return dynamic_cast<const CollectiveError*>(&error) != nullptr ? Heard::collective : Heard::alone;
  }
}

TEST(RunOn, InATeamTheRankThatFailedSpeaksAndTheOthersAreSilent) {
  if (world().size() < 3) GTEST_SKIP() << "needs three ranks";
  const auto team = world().split(world().rank() == 0 ? 1 : 0);
  const int failing = team->size() - 1;
  const bool in_team = world().rank() > 0;
  const Heard expected = !in_team ? Heard::nothing : team->rank() == failing ? Heard::alone : Heard::team;
  const auto fail = [&] {
    run_on(*team, failing, [&] {
      if (in_team) throw IoError("no room");
    });
  };
  EXPECT_EQ(heard_of(fail, ExitCode::io), expected);
  const auto fail_by_text = [&] {
    fail_together(*team, in_team && team->rank() == failing ? "no room" : "");
  };
  EXPECT_EQ(heard_of(fail_by_text, ExitCode::communication), expected);
  world().barrier();
}

TEST(RunOn, MessagesNameTheRanksOfTheWorld) {
  if (world().size() < 3) GTEST_SKIP() << "needs three ranks";
  const auto team = world().split(world().rank() == 0 ? 1 : 0);
  const int first = world().rank() == 0 ? 0 : 1;
  EXPECT_EQ(team->world_rank(0), first);
  EXPECT_EQ(team->world_rank(team->rank()), world().rank());
  EXPECT_EQ(first_problem(*team, ""), "");
  const int failing = team->size() - 1;
  const std::string expected = "rank " + std::to_string(first + failing) + ": no room";
  EXPECT_EQ(first_problem(*team, team->rank() == failing ? "no room" : ""), expected);
  try {
    run_on(*team, 0, [] { throw DeviceError("no room"); });
    FAIL() << "no exception on rank " << world().rank();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("rank " + std::to_string(first) + " on "), 0u) << error.what();
  }
  world().barrier();
}

TEST(RunOn, ATeamWithoutNcclIsToldSoOnAllItsRanksAlike) {
  setenv("GPTQ_HPC_NCCL_PLUGIN", "/nowhere/plugin.so", 1);
  const auto team = world().split(world().rank() % 2);
  EXPECT_EQ(heard_of([&] { make_nccl_collectives(*team, {}); }, ExitCode::communication, "plugin.so"),
            Heard::collective);
  unsetenv("GPTQ_HPC_NCCL_PLUGIN");
  world().barrier();
}

}  // namespace
}  // namespace gptq::test
