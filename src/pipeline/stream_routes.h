#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "pipeline/handoff.h"
#include "pipeline/phase_clock.h"

namespace gptq {

/// A job's streams on their way round the stages: what a rank receives before it works on a block, and lets
/// go behind it. With one stage they stay where they are.
class StreamRoutes {
 public:
  /// streams: the same kinds in the same order on all ranks. Borrows everything.
  StreamRoutes(Backend& backend, const ProcessGrid& grid, std::vector<Activations*> streams,
               PhaseClock& phases);
  ~StreamRoutes();
  StreamRoutes(const StreamRoutes&) = delete;
  StreamRoutes& operator=(const StreamRoutes&) = delete;

  /// `block`, which this rank holds, comes next for the stream, or for all: a chunk of it can be used once it
  /// has arrived; whoever visits one waits for it. All chunks must have been let go behind the block before.
  void expect(std::int64_t block, const Activations& stream);
  void expect(std::int64_t block);
  /// Waits for all that is expected.
  void wait_here();
  /// Takes the stream's chunks through `pass`, a visit of all of them, and lets each go to the next block's
  /// stage when its step is done. No pass: they are through already.
  void let_go(std::int64_t block, Activations& stream, const std::function<void()>& pass);
  /// Waits until all that was let go has arrived elsewhere.
  void wait_sent();
  /// Between the pieces of any work: chunks move, and this rank says that it is alive.
  void progress() { handoff_.progress(); }

 private:
  int number_of(const Activations& stream) const;
  void wait_for(int stream, std::size_t chunk);
  void watch(int stream);

  bool stays_;
  const ProcessGrid& grid_;
  std::vector<Activations*> streams_;
  PhaseClock& phases_;
  Handoff handoff_;
};

}  // namespace gptq
