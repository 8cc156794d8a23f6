// Three ranks of which the last stops while the others wait for it: one in a collective of their team, one
// for a message. Both name it, and the first to do so ends all of them, the stopped one too.

#include <csignal>
#include <cstdio>
#include <exception>

#include "comm/communicator.h"

namespace {

void play(gptq::Communicator& world) {
  world.set_timeout(2);
  world.expect_busy_ranks();
  const auto team = world.split(world.rank() == 0 ? 1 : 0);
  world.barrier();
  if (world.rank() == 2) std::raise(SIGSTOP);
  std::byte never{};
  if (world.rank() == 0) {
    world.receive({&never, 1}, 2, 0)->wait();
  } else {
    team->barrier();
  }
  std::printf("rank %d went on\n", world.rank());
}

}  // namespace

int main(int argc, char** argv) {
  gptq::MpiRuntime mpi(&argc, &argv);
  const auto world = mpi.world();
  try {
    play(*world);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", world->rank(), error.what());
    mpi.abort(6);
  }
  return 0;
}
