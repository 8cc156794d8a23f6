#include "pipeline/handoff.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace gptq {
namespace {

/// Pieces of pinned memory each way, where chunks cannot go from where they lie.
constexpr std::size_t kRooms = 2;

}  // namespace

Handoff::Handoff(Backend& backend, const ProcessGrid& grid, int streams)
    : backend_(backend), grid_(grid), streams_(static_cast<std::size_t>(streams)) {
  // A rank in a collective must let go of what another one waits for before it comes to that collective.
  if (!moves_nothing()) grid_.world().set_idle_work([this] { move_all(); });
}

Handoff::~Handoff() {
  if (!moves_nothing()) grid_.world().set_idle_work({});
}

void Handoff::send(int stream, std::int64_t block, std::size_t chunk, Activations& from) {
  if (moves_nothing()) return;
  GPTQ_EXPECT(grid_.holds(block));
  Stream& state = streams_.at(static_cast<std::size_t>(stream));
  GPTQ_EXPECT(state.into == nullptr || state.arrived > chunk);  // later ones may still be on their way here
  GPTQ_EXPECT(chunk == state.sent && chunk < from.chunks());
  state.from = &from;
  state.to_rank = grid_.next_rank(block);
  state.here.resize(from.chunks(), true);
  GPTQ_EXPECT(state.here[chunk]);
  state.here[chunk] = false;
  if (++state.sent == from.chunks()) {
    state.sent = 0;
    state.owed = false;
  }
  state.waiting.push_back(chunk);
  backend_.synchronize();  // its rows are what the kernels make of them
  move(stream);
}

void Handoff::expect(int stream, std::int64_t block, Activations& into) {
  if (moves_nothing()) return;
  GPTQ_EXPECT(grid_.holds(block));
  Stream& state = streams_.at(static_cast<std::size_t>(stream));
  GPTQ_EXPECT(state.into == nullptr || (state.arrived == state.into->chunks() && state.coming.empty()));
  GPTQ_EXPECT(state.sent == 0 && !state.owed);  // else chunks would come over rows that are still needed
  state.owed = into.chunks() > 0;
  state.into = &into;
  state.from_rank = grid_.previous_rank(block);
  state.next = state.arrived = 0;
  move(stream);
}

void Handoff::wait_for(int stream, std::size_t chunk) {
  Stream& state = streams_.at(static_cast<std::size_t>(stream));
  if (state.into == nullptr) return;
  grid_.world().wait_for_messages("arrival", state.from_rank, [&] {
    move_all();  // what others wait for must not wait for this
    return state.arrived > chunk;
  });
}

void Handoff::wait_sent(int stream) {
  Stream& state = streams_.at(static_cast<std::size_t>(stream));
  if (state.waiting.empty() && state.leaving.empty()) return;
  grid_.world().wait_for_messages("departure", state.to_rank, [&] {
    move_all();  // what others wait for must not wait for this
    return state.waiting.empty() && state.leaving.empty();
  });
}

void Handoff::progress() {
  move_all();
  if (!moves_nothing()) grid_.world().attend();
}

void Handoff::move_all() {
  for (std::size_t stream = 0; stream < streams_.size(); ++stream) move(static_cast<int>(stream));
}

void Handoff::move(int stream) {
  Stream& state = streams_[static_cast<std::size_t>(stream)];
  move_out(stream, state);
  move_in(stream, state);
}

/// One of an earlier chunk where it is large enough: making pinned memory takes long.
DeviceBuffer Handoff::Stream::take_room(Backend& backend, std::size_t bytes) {
  while (!rooms.empty()) {
    DeviceBuffer room = std::move(rooms.back());
    rooms.pop_back();
    if (room.size() >= bytes) return room;
  }
  return backend.allocate_host(bytes);
}

void Handoff::move_out(int tag, Stream& stream) {
  while (!stream.leaving.empty() && stream.leaving.front().transfer->done()) {
    Moving& gone = stream.leaving.front();
    stream.here[gone.chunk] = true;
    if (gone.room.size() > 0) stream.rooms.push_back(std::move(gone.room));
    stream.leaving.pop_front();
  }
  while (!stream.waiting.empty()) {
    Moving moving;
    moving.chunk = stream.waiting.front();
    const std::size_t bytes = stream.from->hidden_bytes(moving.chunk);
    std::byte* rows = stream.from->host_hidden(moving.chunk);
    if (rows == nullptr) {
      if (stream.leaving.size() == kRooms) return;
      moving.room = stream.take_room(backend_, bytes);
      rows = moving.room.data();
      stream.from->read_hidden_chunk(moving.chunk, rows);
    }
    stream.waiting.pop_front();
    moving.transfer = grid_.world().send({rows, bytes}, stream.to_rank, tag);
    stream.leaving.push_back(std::move(moving));
  }
}

bool Handoff::is_free(const Stream& stream, std::size_t chunk) const {
  return chunk >= stream.here.size() || stream.here[chunk];
}

void Handoff::move_in(int tag, Stream& stream) {
  if (stream.into == nullptr) return;
  while (!stream.coming.empty() && stream.coming.front().transfer->done()) {
    Moving& come = stream.coming.front();
    if (come.room.size() > 0) {
      stream.into->write_hidden_chunk(come.chunk, come.room.data());
      stream.rooms.push_back(std::move(come.room));
    }
    stream.arrived = come.chunk + 1;
    stream.coming.pop_front();
  }
  // In the order of the chunks, for that is how they were sent.
  while (stream.next < stream.into->chunks() && is_free(stream, stream.next)) {
    Moving moving;
    moving.chunk = stream.next;
    const std::size_t bytes = stream.into->hidden_bytes(moving.chunk);
    std::byte* rows = stream.into->host_hidden(moving.chunk);
    if (rows == nullptr) {
      if (stream.coming.size() == kRooms) return;
      moving.room = stream.take_room(backend_, bytes);
      rows = moving.room.data();
    }
    moving.transfer = grid_.world().receive({rows, bytes}, stream.from_rank, tag);
    stream.coming.push_back(std::move(moving));
    ++stream.next;
  }
}

}  // namespace gptq
