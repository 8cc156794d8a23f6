#pragma once

// What every kind of DeviceCollectives must do, on memory that the test can touch.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "comm/device_collectives.h"

namespace gptq::test {

/// Sums beyond double precision, and nothing written outside.
inline void check_sum(DeviceCollectives& collectives, const Communicator& comm, std::size_t count) {
  SCOPED_TRACE(testing::Message() << "sum of " << count);
  constexpr std::int64_t kGuard = 0x5a5a5a5a5a5a5a5a;
  const std::int64_t n = comm.size();
  const std::int64_t base = (std::int64_t{1} << 61) / n;
  const auto value = [&](std::size_t i, std::int64_t rank) {
    const std::int64_t part = base - static_cast<std::int64_t>(i) * 1'000'003 - rank * 7;
    return i % 2 == 0 ? part : -part;
  };
  std::vector<std::int64_t> values(count + 2, kGuard);
  for (std::size_t i = 0; i < count; ++i) values[i + 1] = value(i, comm.rank());
  collectives.all_reduce_sum(values.data() + 1, count);
  collectives.wait();
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t sum = 0;
    for (std::int64_t rank = 0; rank < n; ++rank) sum += value(i, rank);
    wrong += values[i + 1] != sum;
  }
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(values.front(), kGuard);
  EXPECT_EQ(values.back(), kGuard);
}

inline void check_broadcast(DeviceCollectives& collectives, const Communicator& comm, std::size_t bytes) {
  constexpr unsigned char kGuard = 0x5a;
  for (int root = 0; root < comm.size(); ++root) {
    SCOPED_TRACE(testing::Message() << "broadcast of " << bytes << " from " << root);
    const auto value = [](std::size_t i, int rank) {
      return static_cast<unsigned char>(i * 31 + 91u * rank);
    };
    std::vector<unsigned char> data(bytes + 2, kGuard);
    for (std::size_t i = 0; i < bytes; ++i) data[i + 1] = value(i, comm.rank());
    collectives.broadcast(data.data() + 1, bytes, root);
    collectives.wait();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < bytes; ++i) wrong += data[i + 1] != value(i, root);
    EXPECT_EQ(wrong, 0u);
    EXPECT_EQ(data.front(), kGuard);
    EXPECT_EQ(data.back(), kGuard);
  }
}

/// Parts of an array as sums that are started one after the other, then joined.
inline void check_started_sums(DeviceCollectives& collectives, const Communicator& comm) {
  const std::int64_t n = comm.size();
  std::vector<std::int64_t> values(120), expected;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto factor = static_cast<std::int64_t>(i) - 60;
    values[i] = factor * (comm.rank() + 1);
    expected.push_back(i < 101 ? factor * n * (n + 1) / 2 : values[i]);
  }
  std::size_t first = 0;
  for (const std::size_t count : {50, 0, 1, 50}) {
    collectives.start_sum(values.data() + first, count);
    first += count;
  }
  collectives.join();
  collectives.wait();
  EXPECT_EQ(values, expected);
}

inline void check_all(DeviceCollectives& collectives, const Communicator& comm) {
  for (const std::size_t count : {0, 1, 2, 3, 7, 100, 101}) check_sum(collectives, comm, count);
  for (const std::size_t bytes : {0, 1, 7, 8, 9, 24, 799, 801}) check_broadcast(collectives, comm, bytes);
  check_started_sums(collectives, comm);
}

}  // namespace gptq::test
