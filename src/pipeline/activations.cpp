#include "pipeline/activations.h"

#include <cstring>

#include "base/error.h"

namespace gptq {

Activations::Activations(const CalibrationData& data, std::vector<Chunk> chunks, std::int64_t hidden_size,
                         std::int64_t max_width, DType compute)
    : chunks_(std::move(chunks)), hidden_size_(hidden_size), max_width_(max_width), compute_(compute) {
  for (const Chunk& chunk : chunks_) {
    Batch batch;
    for (std::int64_t s = 0; s < chunk.samples; ++s) {
      const auto& sample = data.samples[static_cast<std::size_t>(chunk.first_sample + s)];
      batch.offsets.push_back(batch.offsets.back() + static_cast<std::int64_t>(sample.size()));
    }
    first_row_.push_back(first_row_.back() + batch.rows());
    batches_.push_back(std::move(batch));
  }
  hidden_ = HostBuffer(static_cast<std::size_t>(tokens() * hidden_size_) * sizeof(float));
  x_ = HostBuffer(static_cast<std::size_t>(tokens() * max_width_) * size_of(compute_));
}

Matrix Activations::hidden(std::size_t i) const {
  const std::int64_t rows = batches_[i].rows();
  return {reinterpret_cast<float*>(hidden_.data()) + first_row_[i] * hidden_size_, DType::f32, rows,
          hidden_size_, hidden_size_};
}

Matrix Activations::all_hidden() const {
  return {hidden_.data(), DType::f32, tokens(), hidden_size_, hidden_size_};
}

void Activations::copy_x(const Matrix& target) const {
  GPTQ_EXPECT(target.rows == tokens() && target.dtype == compute_ && target.stride == target.cols);
  for (std::size_t i = 0; i < chunks(); ++i) {
    const Matrix from = x(i, target.cols);
    const Matrix to = target.rows_from(first_row_[i], from.rows);
    std::memcpy(to.data, from.data, static_cast<std::size_t>(from.rows * from.cols) * size_of(compute_));
  }
}

Matrix Activations::x(std::size_t i, std::int64_t width) const {
  GPTQ_EXPECT(width <= max_width_);
  const std::size_t first = static_cast<std::size_t>(first_row_[i] * max_width_) * size_of(compute_);
  return {x_.data() + first, compute_, batches_[i].rows(), width, width};
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

HostBuffer Activations::copy_hidden() const {
  HostBuffer copy(hidden_.size());
  std::memcpy(copy.data(), hidden_.data(), hidden_.size());
  return copy;
}

void Activations::restore_hidden(const HostBuffer& copy) {
  GPTQ_EXPECT(copy.size() == hidden_.size());
  std::memcpy(hidden_.data(), copy.data(), copy.size());
}

}  // namespace gptq
