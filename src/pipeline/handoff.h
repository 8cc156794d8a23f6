#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "pipeline/activations.h"
#include "pipeline/process_grid.h"

namespace gptq {

/// Hidden states on their way to the next block's stage, chunk by chunk: one message a chunk, its rows of the
/// residual stream. A stream's messages go in the order of blocks and chunks under a tag of their own. With
/// one stage everything is a no-op.
///
/// A rank has one array of hidden states a stream: a chunk's rows are received into it only when their own
/// departure is through. They travel from where they lie to where they are used; on a device through two
/// pieces of pinned memory each way. Nothing waits but the calls that say so, which throw CommError like a
/// collective. While this rank waits for others, in these or in any collective, chunks move on: they are the
/// world's idle work.
class Handoff {
 public:
  Handoff(Backend& backend, const ProcessGrid& grid, int streams);
  ~Handoff();
  Handoff(const Handoff&) = delete;
  Handoff& operator=(const Handoff&) = delete;

  /// The chunk has left `block`: its rows go to the stage of block + 1. All chunks of a block go, in order.
  /// They must stay as they are until wait_sent() or the arrival of the same chunk. Waits for this rank's
  /// kernels.
  void send(int stream, std::int64_t block, std::size_t chunk, Activations& from);
  /// `block`, which this rank holds, comes next: its input is the stream that leaves the block before. All
  /// chunks of the block that came before must have been given to send(); they may still be on their way.
  void expect(int stream, std::int64_t block, Activations& into);
  /// Waits until the chunk has arrived; nothing to do where none is expected.
  void wait_for(int stream, std::size_t chunk);
  /// Waits until all that the stream sent is through.
  void wait_sent(int stream);
  /// Moves what can be moved, and attends; between the pieces of any work.
  void progress();

 private:
  /// A chunk under way.
  struct Moving {
    std::size_t chunk = 0;
    DeviceBuffer room;  ///< pinned; empty: it goes from or to where it lies
    std::unique_ptr<Transfer> transfer;
  };
  struct Stream {
    // departures
    Activations* from = nullptr;
    int to_rank = 0;
    std::deque<std::size_t> waiting;  ///< chunks that have not been sent yet
    std::deque<Moving> leaving;
    std::vector<bool> here;  ///< of each chunk: its departure is through
    std::size_t sent = 0;    ///< chunks of the present block that were given to send()
    bool owed = false;       ///< a block came, and not all of it was
    // arrivals
    Activations* into = nullptr;
    int from_rank = 0;
    std::size_t next = 0;  ///< the first chunk that is not being received yet
    std::deque<Moving> coming;
    std::size_t arrived = 0;  ///< chunks before this one are there

    std::vector<DeviceBuffer> rooms;  ///< pinned, not in use
    DeviceBuffer take_room(Backend& backend, std::size_t bytes);
  };

  bool moves_nothing() const { return grid_.shape().stages == 1; }
  void move_all();
  void move(int stream);
  void move_out(int tag, Stream& stream);
  void move_in(int tag, Stream& stream);
  bool is_free(const Stream& stream, std::size_t chunk) const;

  Backend& backend_;
  const ProcessGrid& grid_;
  std::vector<Stream> streams_;
};

}  // namespace gptq
