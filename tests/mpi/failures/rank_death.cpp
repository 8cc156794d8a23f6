// Three ranks of which the last dies without a word while the others wait for it: one in a collective of their
// team, one for a message. The launcher must end them all in bounded time; nobody may go on.

#include <csignal>
#include <cstdio>
#include <exception>

#include "comm/communicator.h"

namespace {

void play(gptq::Communicator& world) {
  world.set_timeout(5);
  world.expect_busy_ranks();
  const auto team = world.split(world.rank() == 0 ? 1 : 0);
  world.barrier();
  if (world.rank() == 2) {
    std::printf("rank 2 dies\n");
    std::fflush(stdout);
    std::raise(SIGKILL);
  }
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
  try {
    play(*mpi.world());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    mpi.abort(6);
  }
  return 0;
}
