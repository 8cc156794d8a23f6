// One gtest program for all ranks: every rank runs every test in the same order. Rank 0 prints everything,
// the others their failures; the launcher fails if any rank does.

#include <gtest/gtest.h>

#include "mpi_world.h"

namespace gptq::test {
namespace {
Communicator* world_pointer = nullptr;
}
Communicator& world() {
  return *world_pointer;
}
}  // namespace gptq::test

int main(int argc, char** argv) {
  gptq::MpiRuntime mpi(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  const auto world = mpi.world();
  gptq::test::world_pointer = world.get();
  if (!world->is_root()) testing::GTEST_FLAG(brief) = true;
  return RUN_ALL_TESTS();
}
