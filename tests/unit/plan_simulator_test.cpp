#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/clock.h"
#include "pipeline/simulator.h"

namespace gptq::test {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;

/// Seconds on a queue, nothing shared.
Operation lasting(int queue, double seconds, int phase = 0) {
  Operation operation;
  operation.queue = queue;
  operation.amount = seconds;
  operation.most = 1;
  operation.phase = phase;
  return operation;
}

Operation sharing(int queue, int resource, double amount) {
  Operation operation;
  operation.queue = queue;
  operation.resource = resource;
  operation.amount = amount;
  return operation;
}

TEST(Simulator, NothingTakesNoTime) {
  Simulator nothing;
  EXPECT_EQ(nothing.run().end, 0);
  Simulator simulator;
  const int queue = simulator.queue("a");
  simulator.phase("work");
  simulator.add(lasting(queue, 0));
  const Outcome outcome = simulator.run();
  EXPECT_EQ(outcome.end, 0);
  EXPECT_EQ(outcome.limited_by(), "");
}

TEST(Simulator, AQueueWorksInTheOrderOfInsertion) {
  Simulator simulator;
  const int a = simulator.queue("a"), b = simulator.queue("b");
  simulator.phase("work");
  const OperationId late = simulator.add(lasting(b, 5));
  const OperationId first = simulator.add(lasting(a, 1), {late});
  const OperationId second = simulator.add(lasting(a, 2));  // could start at once, but is not the first
  const Outcome outcome = simulator.run();
  EXPECT_EQ(simulator.start_of(first), 5);
  EXPECT_EQ(simulator.start_of(second), 6);
  EXPECT_EQ(outcome.end, 8);
  EXPECT_EQ(outcome.queues[0].waiting, 5);
  EXPECT_EQ(outcome.queues[0].busy, 3);
  EXPECT_EQ(outcome.seconds(a, "work"), 8);
  EXPECT_EQ(outcome.queues[0].running[0], 3);
}

// Processor sharing of n jobs a_1 <= ... <= a_n that start together: T_k = T_(k-1) + (n-k+1)(a_k -
// a_(k-1))/C.
TEST(Simulator, FairSharesAreThoseOfTheClosedForm) {
  const double rate = 7;
  std::mt19937 random(3);
  std::vector<double> amounts;
  for (int i = 0; i < 40; ++i) amounts.push_back(std::uniform_real_distribution(0.1, 9.0)(random));
  amounts.push_back(amounts.front());  // two alike
  Simulator simulator;
  simulator.phase("work");
  const int link = simulator.resource("link", {rate});
  for (const double amount : amounts) simulator.add(sharing(-1, link, amount));
  simulator.run();

  std::vector<std::size_t> order(amounts.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return amounts[a] < amounts[b]; });
  double time = 0, before = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    time += static_cast<double>(order.size() - k) * (amounts[order[k]] - before) / rate;
    before = amounts[order[k]];
    EXPECT_NEAR(simulator.end_of(static_cast<OperationId>(order[k])), time, 1e-9 * time);
  }
}

// 10 units a second for three: one takes no more than 1, the others share 9. By hand: the first ends at 2,
// the second (9 units at 4.5) at 2 as well, the third has 9 of 19 then and gets all 10 from there on.
TEST(Simulator, WhatOneCannotTakeGoesToTheOthers) {
  Simulator simulator;
  simulator.phase("work");
  const int disk = simulator.resource("disk", {10});
  Operation slow = sharing(-1, disk, 2);
  slow.most = 1;
  const OperationId first = simulator.add(slow);
  const OperationId second = simulator.add(sharing(-1, disk, 9));
  const OperationId third = simulator.add(sharing(-1, disk, 19));
  simulator.run();
  EXPECT_DOUBLE_EQ(simulator.end_of(first), 2);
  EXPECT_DOUBLE_EQ(simulator.end_of(second), 2);
  EXPECT_DOUBLE_EQ(simulator.end_of(third), 3);
}

TEST(Simulator, FoldedOperationsCountForAsManyAsTheyAre) {
  Simulator folded, single;
  for (Simulator* simulator : {&folded, &single}) {
    simulator->phase("work");
    simulator->resource("files", {12});
    simulator->add(sharing(-1, 0, 5));
  }
  Operation three = sharing(-1, 0, 3 * 8.0);
  three.weight = 3;
  three.most = 3 * 2.5;
  const OperationId of_three = folded.add(three);
  OperationId last = 0;
  for (int i = 0; i < 3; ++i) {
    Operation one = sharing(-1, 0, 8);
    one.most = 2.5;
    last = single.add(one);
  }
  folded.run();
  single.run();
  EXPECT_NEAR(folded.end_of(0), single.end_of(0), 1e-9);
  EXPECT_NEAR(folded.end_of(of_three), single.end_of(last), 1e-9);
}

TEST(Simulator, ARateMayDependOnTheNumberOfUsers) {
  Simulator simulator;
  simulator.phase("work");
  const int cores = simulator.resource("cores", {1, 1.8});
  for (int i = 0; i < 3; ++i) {
    Operation work = sharing(simulator.queue("rank"), cores, 3);
    work.most = 1;
    simulator.add(work);
  }
  EXPECT_NEAR(simulator.run().end, 9 / 1.8, 1e-9);
}

TEST(Simulator, ALatencyUsesNothing) {
  Simulator simulator;
  simulator.phase("work");
  const int link = simulator.resource("link", {1});
  Operation late = sharing(-1, link, 1);
  late.delay = 2;
  const OperationId one = simulator.add(late);
  const OperationId other = simulator.add(sharing(-1, link, 2));
  simulator.run();
  EXPECT_DOUBLE_EQ(simulator.end_of(other), 2);
  EXPECT_DOUBLE_EQ(simulator.end_of(one), 3);
}

// S stages, M chunks of one second each: the last leaves after S + M - 1 seconds, the first stage waits for
// nobody, and the chain that decides has S + M - 1 operations.
TEST(Simulator, APipelineFillsAndDrains) {
  constexpr int kStages = 4, kChunks = 9;
  Simulator simulator;
  simulator.phase("work");
  for (int s = 0; s < kStages; ++s) simulator.queue("stage");
  std::vector<OperationId> of_chunk(kChunks, -1);
  for (int s = 0; s < kStages; ++s) {
    for (OperationId& chunk : of_chunk)
      chunk = s == 0 ? simulator.add(lasting(s, 1)) : simulator.add(lasting(s, 1), {chunk});
  }
  const Outcome outcome = simulator.run();
  EXPECT_EQ(outcome.end, kStages + kChunks - 1);
  for (int s = 0; s < kStages; ++s) {
    EXPECT_EQ(outcome.queues[static_cast<std::size_t>(s)].waiting, s);
    EXPECT_EQ(outcome.queues[static_cast<std::size_t>(s)].busy, kChunks);
  }
  EXPECT_EQ(outcome.critical[0], outcome.end);
}

// a: compute 3, then both exchange for 1 second; b: compute 5. By hand: the exchange runs from 5 to 6, a
// waits 2 in it.
TEST(Simulator, WaitingForOthersBelongsToThePhaseThatWaits) {
  Simulator simulator;
  const int a = simulator.queue("a"), b = simulator.queue("b");
  const int compute = simulator.phase("compute"), exchange = simulator.phase("exchange");
  const OperationId of_a = simulator.add(lasting(a, 3, compute));
  const OperationId of_b = simulator.add(lasting(b, 5, compute));
  simulator.add(lasting(a, 1, exchange), {of_b});
  simulator.add(lasting(b, 1, exchange), {of_a});
  const Outcome outcome = simulator.run();
  EXPECT_EQ(outcome.end, 6);
  EXPECT_EQ(outcome.seconds(a, "compute"), 3);
  EXPECT_EQ(outcome.seconds(a, "exchange"), 3);
  EXPECT_EQ(outcome.seconds(b, "exchange"), 1);
  EXPECT_THAT(outcome.critical, ElementsAre(DoubleNear(5, 1e-12), DoubleNear(1, 1e-12)));
  EXPECT_EQ(outcome.limited_by(), "compute");
  EXPECT_EQ(outcome.seconds(a, "unknown"), 0);
}

TEST(Simulator, TheSameTwice) {
  const auto ends = [] {
    Simulator simulator;
    simulator.phase("work");
    const int link = simulator.resource("link", {3});
    std::mt19937 random(11);
    for (int q = 0; q < 5; ++q) simulator.queue("q");
    for (OperationId i = 0; i < 2000; ++i) {
      Operation operation = sharing(static_cast<int>(random() % 5), random() % 2 == 0 ? link : -1,
                                    static_cast<double>(random() % 4));
      operation.most = 1 + static_cast<double>(random() % 2);
      operation.delay = random() % 8 == 0 ? 1 : 0;
      if (i > 0) simulator.add(operation, {static_cast<OperationId>(random() % static_cast<unsigned>(i))});
      if (i == 0) simulator.add(operation);
    }
    simulator.run();
    std::vector<double> result;
    for (OperationId i = 0; i < 2000; ++i) {
      EXPECT_GE(simulator.end_of(i), simulator.start_of(i));
      result.push_back(simulator.end_of(i));
    }
    return result;
  };
  EXPECT_EQ(ends(), ends());
}

// A job of 126 blocks on a thousand ranks has some millions. The limit is wide: the machine may be busy.
TEST(Simulator, AMillionOperationsTakeSeconds) {
  constexpr int kQueues = 64, kSteps = 16000;
  Simulator simulator;
  simulator.phase("work");
  const int link = simulator.resource("link", {1});
  for (int q = 0; q < kQueues; ++q) simulator.queue("q");
  std::vector<OperationId> before;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<OperationId> now;
    for (int q = 0; q < kQueues; ++q) {
      Operation operation = lasting(q, 1 + 0.001 * q);
      if (q < 4) operation.resource = link;
      now.push_back(step == 0
                        ? simulator.add(operation)
                        : simulator.add(operation, {before[static_cast<std::size_t>((q + 1) % kQueues)]}));
    }
    before = now;
  }
  Stopwatch watch;
  simulator.run();
  EXPECT_EQ(simulator.operations(), 1'024'000);
  EXPECT_LT(watch.seconds(), 30);
}

}  // namespace
}  // namespace gptq::test
