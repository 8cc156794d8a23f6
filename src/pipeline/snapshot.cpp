#include "pipeline/snapshot.h"

namespace gptq {
namespace {

/// Grows, never shrinks: the next checkpoint has about the same size.
std::byte* room_for(HostBuffer& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) {
    buffer = HostBuffer();
    buffer = HostBuffer(bytes);
  }
  return buffer.data();
}

void take_hidden(const Activations& activations, HostBuffer& room, Matrix& hidden) {
  const std::int64_t rows = activations.tokens();
  const std::int64_t width = activations.hidden_size();
  hidden = {room_for(room, static_cast<std::size_t>(rows * width) * sizeof(float)), DType::f32, rows, width,
            width};
  activations.read_hidden(hidden.data);
}

/// Copies of a stream's state, with room for them that is kept.
void take_stream(const Activations& activations, std::int64_t x_width, HostBuffer& hidden_room,
                 HostBuffer& x_room, Matrix& hidden, Matrix& x) {
  take_hidden(activations, hidden_room, hidden);
  if (x_width == 0) return;
  const std::int64_t rows = activations.tokens();
  const DType type = activations.compute();
  x = {room_for(x_room, static_cast<std::size_t>(rows * x_width) * size_of(type)), type, rows, x_width,
       x_width};
  activations.read_x(x_width, x.data);
}

}  // namespace

void Snapshot::take(const SafePoint& point, Backend& backend) {
  state.block = point.block;
  state.group = point.group;
  state.samples.clear();
  state.lengths.clear();
  state.hidden = state.x = state.hidden_before = state.reference_hidden = state.reference_x = Matrix{};
  state.held_out_hidden = Matrix{};
  take_sums(point, backend);
  layers.clear();
  if (point.keeps_finished && point.finished != nullptr) layers = point.finished->layers;
  state.layers = point.keeps_finished ? &layers : nullptr;
  if (point.activations != nullptr) take_activations(point);
  has_file =
      point.activations != nullptr && (point.keeps_finished || !state.samples.empty() || !panels.empty());
}

void Snapshot::take_sums(const SafePoint& point, Backend& backend) {
  const auto take = [&](const std::int64_t* from, std::size_t count, std::vector<std::int64_t>& to) {
    to.resize(count);
    if (count > 0) backend.download(to.data(), from, count * sizeof(std::int64_t));
  };
  const bool summed = point.sums != nullptr && !point.chunks.empty();  // else only zeros
  take(summed ? point.sums->hessian.values() : nullptr, summed ? point.sums->hessian.count() : 0, panels);
  take(summed ? point.sums->cross.values() : nullptr, summed ? point.sums->cross.count() : 0, cross);
  state.sum = panels;
  state.cross = cross;
  state.chunks_summed = point.chunks;
}

void Snapshot::take_samples(const Activations& activations) {
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    const Batch& batch = activations.batch(i);
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      state.samples.push_back(activations.chunk(i).first_sample + s);
      state.lengths.push_back(batch.offsets[static_cast<std::size_t>(s) + 1] -
                              batch.offsets[static_cast<std::size_t>(s)]);
    }
  }
}

void Snapshot::take_activations(const SafePoint& point) {
  const Activations& activations = *point.activations;
  take_samples(activations);
  take_stream(activations, point.x_width, hidden, x, state.hidden, state.x);
  if (point.reference != nullptr) {
    take_stream(*point.reference, point.reference_x_width, reference_hidden, reference_x,
                state.reference_hidden, state.reference_x);
  }
  if (point.held_out != nullptr) take_hidden(*point.held_out, held_out, state.held_out_hidden);
  if (point.hidden_before != nullptr) {
    const std::int64_t rows = activations.tokens();
    const std::int64_t width = activations.hidden_size();
    const std::size_t bytes = static_cast<std::size_t>(rows * width) * sizeof(float);
    state.hidden_before = {room_for(hidden_before, bytes), DType::f32, rows, width, width};
    point.hidden_before->read(0, state.hidden_before.data, bytes);
  }
}

}  // namespace gptq
