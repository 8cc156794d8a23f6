#include "tests/cuda_emulation/streams.h"

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "tests/cuda_emulation/order.h"

namespace emulation {
namespace {

using Clock = std::chrono::steady_clock;

struct Stream {
  bool blocking = true;
  std::deque<std::function<void()>> queue;
  std::uint64_t submitted = 0, done = 0;
};

struct Event {
  bool timing = true;
  std::shared_ptr<Stream> stream;  ///< null: never recorded
  std::uint64_t position = 0;      ///< `done` of the stream that it stands for
  std::shared_ptr<Clock::time_point> time;
};

const Choice& choice() {
  static const Choice value = read_choice("GPTQ_EMULATION_STREAMS", {"eager", "lazy"});
  return value;
}

std::vector<std::shared_ptr<Stream>>& all_streams() {
  // First the null stream. Outlives every static object.
  static auto& streams = *new std::vector<std::shared_ptr<Stream>>{std::make_shared<Stream>()};
  return streams;
}

/// Handles are indices into all_streams(), so that one that was destroyed is known as such.
std::shared_ptr<Stream> stream_of(cudaStream_t handle) {
  auto index = reinterpret_cast<std::uintptr_t>(handle) / 256;  // 1 and 2: other names of the null stream
  return all_streams().at(index);
}

void run_one(Stream& stream) {
  const std::function<void()> work = std::move(stream.queue.front());
  stream.queue.pop_front();
  work();
  ++stream.done;
}

void run_to(Stream& stream, std::uint64_t position) {
  while (stream.done < position) run_one(stream);
}

void put(Stream& stream, std::function<void()> work) {
  ++stream.submitted;
  stream.queue.push_back(std::move(work));
  if (choice().name == "eager") run_to(stream, stream.submitted);
}

/// Lets something run that nobody waits for yet.
void run_something() {
  static std::mt19937_64 random(choice().seed);
  while (random() % 3 == 0) {
    Stream& stream = *all_streams()[random() % all_streams().size()];
    if (!stream.queue.empty()) run_one(stream);
  }
}

}  // namespace

std::recursive_mutex& machine_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

cudaStream_t create_stream(bool blocking) {
  all_streams().push_back(std::make_shared<Stream>(Stream{blocking, {}, 0, 0}));
  return reinterpret_cast<cudaStream_t>((all_streams().size() - 1) * 256);
}

void destroy_stream(cudaStream_t stream) {
  drain(stream);
}

void submit(cudaStream_t handle, std::function<void()> work) {
  const std::shared_ptr<Stream> stream = stream_of(handle);
  if (stream == all_streams().front()) {
    for (const auto& other : all_streams())
      if (other->blocking) run_to(*other, other->submitted);
    put(*stream, std::move(work));
    run_to(*stream, stream->submitted);
    return;
  }
  put(*stream, std::move(work));
  if (choice().name == "random") run_something();
}

void drain(cudaStream_t handle) {
  const std::shared_ptr<Stream> stream = stream_of(handle);
  run_to(*stream, stream->submitted);
}

void drain_all() {
  const auto streams = all_streams();
  for (const auto& stream : streams) run_to(*stream, stream->submitted);
}

bool idle(cudaStream_t handle) {
  const std::shared_ptr<Stream> stream = stream_of(handle);
  if (stream->queue.empty()) return true;
  run_one(*stream);
  return false;
}

cudaEvent_t create_event(bool timing) {
  auto* event = new Event;
  event->timing = timing;
  return reinterpret_cast<cudaEvent_t>(event);
}

void destroy_event(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
}

void record_event(cudaEvent_t handle, cudaStream_t stream) {
  Event& event = *reinterpret_cast<Event*>(handle);
  event.stream = stream_of(stream);
  event.time = std::make_shared<Clock::time_point>();
  submit(stream, [time = event.time] { *time = Clock::now(); });
  event.position = event.stream->submitted;
}

void make_wait(cudaStream_t stream, cudaEvent_t handle) {
  const Event& event = *reinterpret_cast<Event*>(handle);
  if (event.stream == nullptr) return;
  submit(stream, [other = event.stream, position = event.position] { run_to(*other, position); });
}

void drain_to(cudaEvent_t handle) {
  const Event& event = *reinterpret_cast<Event*>(handle);
  if (event.stream != nullptr) run_to(*event.stream, event.position);
}

bool reached(cudaEvent_t handle) {
  const Event& event = *reinterpret_cast<Event*>(handle);
  if (event.stream == nullptr || event.stream->done >= event.position) return true;
  run_one(*event.stream);
  return false;
}

float elapsed(cudaEvent_t first_handle, cudaEvent_t last_handle) {
  const Event& first = *reinterpret_cast<Event*>(first_handle);
  const Event& last = *reinterpret_cast<Event*>(last_handle);
  for (const Event* event : {&first, &last})
    if (!event->timing || event->stream == nullptr || event->stream->done < event->position) return -1;
  return std::chrono::duration<float, std::milli>(*last.time - *first.time).count();
}

}  // namespace emulation
