#include "pipeline/stream_routes.h"

#include <algorithm>

#include "base/error.h"

namespace gptq {

StreamRoutes::StreamRoutes(Backend& backend, const ProcessGrid& grid, std::vector<Activations*> streams,
                           PhaseClock& phases)
    : stays_(grid.shape().stages == 1),
      grid_(grid),
      streams_(std::move(streams)),
      phases_(phases),
      handoff_(backend, grid, static_cast<int>(streams_.size())) {
  for (int stream = 0; stream < static_cast<int>(streams_.size()); ++stream) watch(stream);
}

StreamRoutes::~StreamRoutes() {
  for (Activations* stream : streams_) stream->on_chunk({}, {});
}

int StreamRoutes::number_of(const Activations& stream) const {
  const auto found = std::find(streams_.begin(), streams_.end(), &stream);
  GPTQ_EXPECT(found != streams_.end());
  return static_cast<int>(found - streams_.begin());
}

void StreamRoutes::wait_for(int stream, std::size_t chunk) {
  const auto scope = phases_.on_host("handoff");
  handoff_.wait_for(stream, chunk);
}

/// On every visit: chunks that are still on their way are waited for, and things move on between them.
void StreamRoutes::watch(int stream) {
  if (stays_) return;
  streams_[static_cast<std::size_t>(stream)]->on_chunk(
      [this, stream](std::size_t chunk) { wait_for(stream, chunk); },
      [this](std::size_t) { handoff_.progress(); });
}

void StreamRoutes::expect(std::int64_t block, const Activations& stream) {
  if (stays_ || block == grid_.first_block() || block > grid_.blocks()) return;
  const int number = number_of(stream);
  handoff_.expect(number, block, *streams_[static_cast<std::size_t>(number)]);
}

void StreamRoutes::expect(std::int64_t block) {
  for (const Activations* stream : streams_) expect(block, *stream);
}

void StreamRoutes::wait_here() {
  if (stays_) return;
  for (int stream = 0; stream < static_cast<int>(streams_.size()); ++stream) {
    const std::size_t chunks = streams_[static_cast<std::size_t>(stream)]->chunks();
    if (chunks > 0) wait_for(stream, chunks - 1);
  }
}

void StreamRoutes::let_go(std::int64_t block, Activations& stream, const std::function<void()>& pass) {
  if (stays_) {
    if (pass) pass();
    return;
  }
  const int number = number_of(stream);
  const auto send = [this, number, block, &stream](std::size_t chunk) {
    handoff_.send(number, block, chunk, stream);
    handoff_.progress();
  };
  if (pass) {
    stream.on_chunk([this, number](std::size_t chunk) { wait_for(number, chunk); }, send);
    pass();
    watch(number);
  } else {
    for (std::size_t chunk = 0; chunk < stream.chunks(); ++chunk) send(chunk);
  }
}

void StreamRoutes::wait_sent() {
  const auto scope = phases_.on_host("handoff");
  for (int stream = 0; stream < static_cast<int>(streams_.size()); ++stream) handoff_.wait_sent(stream);
}

}  // namespace gptq
