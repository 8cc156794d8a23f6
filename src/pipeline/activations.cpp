#include "pipeline/activations.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace gptq {
namespace {

std::size_t bytes_of(const Matrix& matrix) {
  return static_cast<std::size_t>(matrix.rows * matrix.cols) * size_of(matrix.dtype);
}

bool reads(Activations::Use::Hidden hidden) {
  return hidden == Activations::Use::read || hidden == Activations::Use::updated;
}

bool writes(Activations::Use::Hidden hidden) {
  return hidden == Activations::Use::written || hidden == Activations::Use::updated;
}

}  // namespace

Activations::Activations(Backend& backend, const CalibrationData& data, std::vector<Chunk> chunks,
                         std::int64_t hidden_size, std::int64_t max_width, DType compute, const Room& room)
    : backend_(backend),
      chunks_(std::move(chunks)),
      hidden_size_(hidden_size),
      max_width_(max_width),
      compute_(compute),
      room_(room) {
  std::int64_t largest = 0;
  for (const Chunk& chunk : chunks_) {
    Batch batch;
    for (std::int64_t s = 0; s < chunk.samples; ++s) {
      const auto& sample = data.samples[static_cast<std::size_t>(chunk.first_sample + s)];
      batch.offsets.push_back(batch.offsets.back() + static_cast<std::int64_t>(sample.size()));
    }
    largest = std::max(largest, batch.rows());
    first_row_.push_back(first_row_.back() + batch.rows());
    batches_.push_back(std::move(batch));
  }
  hidden_ = empty_hidden();
  const std::size_t element = size_of(compute_);
  x_ =
      RowStore(backend_, static_cast<std::size_t>(tokens() * max_width_) * element, room_.place, room_.spill);
  if (resident()) return;
  for (Slot& slot : slots_) {
    slot.hidden = backend_.allocate(static_cast<std::size_t>(largest * hidden_size_) * sizeof(float));
    slot.x = backend_.allocate(static_cast<std::size_t>(largest * max_width_) * element);
  }
}

std::size_t Activations::hidden_offset(std::size_t i) const {
  return static_cast<std::size_t>(first_row_[i] * hidden_size_) * sizeof(float);
}

std::size_t Activations::x_offset(std::size_t i) const {
  return static_cast<std::size_t>(first_row_[i] * max_width_) * size_of(compute_);
}

Matrix Activations::matrix(std::byte* data, DType dtype, std::size_t i, std::int64_t width) const {
  return {data, dtype, batches_[i].rows(), width, width};
}

std::vector<std::int32_t> Activations::ids(std::size_t i, const CalibrationData& data) const {
  std::vector<std::int32_t> ids;
  ids.reserve(static_cast<std::size_t>(chunks_[i].tokens));
  for (std::int64_t s = 0; s < chunks_[i].samples; ++s) {
    const auto& sample = data.samples[static_cast<std::size_t>(chunks_[i].first_sample + s)];
    ids.insert(ids.end(), sample.begin(), sample.end());
  }
  return ids;
}

void Activations::visit(const Use& use, const Step& step) {
  std::vector<std::size_t> all(chunks());
  std::iota(all.begin(), all.end(), std::size_t{0});
  visit(all, use, step);
}

void Activations::visit(const std::vector<std::size_t>& chunks, const Use& use, const Step& step) {
  GPTQ_EXPECT(use.x_width <= max_width_ && use.next_width <= max_width_);
  if (resident()) return visit_resident(chunks, use, step);
  visit_staged(chunks, use, step);
}

void Activations::visit_resident(const std::vector<std::size_t>& chunks, const Use& use, const Step& step) {
  for (const std::size_t i : chunks) {
    arrive(i);
    Matrix hidden, x, next;
    if (use.hidden != Use::ignored) {
      hidden = matrix(hidden_.data() + hidden_offset(i), DType::f32, i, hidden_size_);
    }
    if (use.x_width > 0) x = matrix(x_.data() + x_offset(i), compute_, i, use.x_width);
    if (use.next_width > 0) next = matrix(x_.data() + x_offset(i), compute_, i, use.next_width);
    step(i, hidden, x, next);
    depart(i);
  }
}

void Activations::load(std::size_t slot, std::size_t i, const Use& use) {
  const std::int64_t rows = batches_[i].rows();
  if (reads(use.hidden)) {
    backend_.copy_in_queue(Queue::load, slots_[slot].hidden.data(), hidden_.data() + hidden_offset(i),
                           static_cast<std::size_t>(rows * hidden_size_) * sizeof(float));
  }
  if (use.x_width > 0) {
    backend_.copy_in_queue(Queue::load, slots_[slot].x.data(), x_.data() + x_offset(i),
                           static_cast<std::size_t>(rows * use.x_width) * size_of(compute_));
  }
}

void Activations::store(std::size_t slot, std::size_t i, const Use& use) {
  const std::int64_t rows = batches_[i].rows();
  if (writes(use.hidden)) {
    backend_.copy_in_queue(Queue::store, hidden_.data() + hidden_offset(i), slots_[slot].hidden.data(),
                           static_cast<std::size_t>(rows * hidden_size_) * sizeof(float));
  }
  if (use.next_width > 0) {
    backend_.copy_in_queue(Queue::store, x_.data() + x_offset(i), slots_[slot].x.data(),
                           static_cast<std::size_t>(rows * use.next_width) * size_of(compute_));
  }
}

/// Chunk k+1 is loaded into one slot while the kernels work on chunk k in the other.
void Activations::visit_staged(const std::vector<std::size_t>& chunks, const Use& use, const Step& step) {
  if (chunks.empty()) return;
  arrive(chunks[0]);
  load(0, chunks[0], use);
  for (std::size_t k = 0; k < chunks.size(); ++k) {
    const std::size_t slot = k % 2;
    const std::size_t i = chunks[k];
    backend_.order_after(Queue::load, Queue::compute);
    if (k + 1 < chunks.size()) {
      // The other slot is free once chunk k-1 has been computed and stored.
      backend_.order_after(Queue::compute, Queue::load);
      backend_.order_after(Queue::store, Queue::load);
      arrive(chunks[k + 1]);
      load(1 - slot, chunks[k + 1], use);
    }
    Matrix hidden, x, next;
    if (use.hidden != Use::ignored) hidden = matrix(slots_[slot].hidden.data(), DType::f32, i, hidden_size_);
    if (use.x_width > 0) x = matrix(slots_[slot].x.data(), compute_, i, use.x_width);
    if (use.next_width > 0) next = matrix(slots_[slot].x.data(), compute_, i, use.next_width);
    step(i, hidden, x, next);
    backend_.order_after(Queue::compute, Queue::store);
    store(slot, i, use);
    depart(i);
  }
  backend_.synchronize();  // the host may read and move the arrays from here on
}

void Activations::on_chunk(OnChunk before, OnChunk after) {
  before_ = std::move(before);
  after_ = std::move(after);
}

void Activations::arrive(std::size_t i) const {
  if (before_) before_(i);
}

void Activations::depart(std::size_t i) const {
  if (after_) after_(i);
}

std::size_t Activations::hidden_bytes(std::size_t i) const {
  return static_cast<std::size_t>(batches_[i].rows() * hidden_size_) * sizeof(float);
}

std::byte* Activations::host_hidden(std::size_t i) {
  if (hidden_.resident() && !backend_.shares_host_memory()) return nullptr;
  return hidden_.data() + hidden_offset(i);
}

void Activations::read_hidden_chunk(std::size_t i, void* to_host) const {
  hidden_.read(hidden_offset(i), to_host, hidden_bytes(i));
}

void Activations::write_hidden_chunk(std::size_t i, const void* from_host) {
  hidden_.write(hidden_offset(i), from_host, hidden_bytes(i));
}

RowStore Activations::empty_hidden() const {
  const std::size_t bytes = static_cast<std::size_t>(tokens() * hidden_size_) * sizeof(float);
  return {backend_, bytes, room_.place, room_.spill};
}

void Activations::read_hidden(void* to_host) const {
  hidden_.read(0, to_host, hidden_.size());
}

void Activations::read_x(std::int64_t width, void* to_host) const {
  auto* target = static_cast<std::byte*>(to_host);
  for (std::size_t i = 0; i < chunks(); ++i) {
    const std::size_t bytes = static_cast<std::size_t>(batches_[i].rows() * width) * size_of(compute_);
    x_.read(x_offset(i), target, bytes);
    target += bytes;
  }
}

void Activations::write_hidden_copy(RowStore& copy, std::size_t chunk, std::int64_t first_row,
                                    const Matrix& host) const {
  GPTQ_EXPECT(host.dtype == DType::f32 && host.cols == hidden_size_ && host.stride == host.cols);
  const std::size_t offset = static_cast<std::size_t>(first_row * hidden_size_) * sizeof(float);
  copy.write(hidden_offset(chunk) + offset, host.data, bytes_of(host));
}

void Activations::write_hidden(std::size_t chunk, std::int64_t first_row, const Matrix& host) {
  write_hidden_copy(hidden_, chunk, first_row, host);
}

void Activations::write_x(std::size_t chunk, std::int64_t first_row, const Matrix& host) {
  GPTQ_EXPECT(host.dtype == compute_ && host.cols <= max_width_ && host.stride == host.cols);
  const std::size_t offset = static_cast<std::size_t>(first_row * host.cols) * size_of(compute_);
  x_.write(x_offset(chunk) + offset, host.data, bytes_of(host));
}

}  // namespace gptq
