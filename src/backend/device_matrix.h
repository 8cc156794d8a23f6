#pragma once

#include "backend/backend.h"

namespace gptq {

/// A dense matrix that owns its place in a backend's memory.
class DeviceMatrix {
 public:
  DeviceMatrix() = default;
  /// Uninitialised.
  DeviceMatrix(Backend& backend, DType dtype, std::int64_t rows, std::int64_t cols)
      : memory_(backend.allocate(static_cast<std::size_t>(rows * cols) * size_of(dtype))),
        matrix_{memory_.data(), dtype, rows, cols, cols} {}
  /// A copy of a host tensor, seen as HostTensor::matrix() sees it.
  DeviceMatrix(Backend& backend, const HostTensor& tensor)
      : DeviceMatrix(backend, tensor.dtype, tensor.matrix().rows, tensor.matrix().cols) {
    backend.upload(memory_.data(), tensor.storage.data(), memory_.size());
  }

  /// The tensor itself where the backend computes in host memory (it must then outlive this), else a copy.
  static DeviceMatrix view_or_copy(Backend& backend, const HostTensor& tensor) {
    if (!backend.shares_host_memory()) return {backend, tensor};
    DeviceMatrix view;
    view.matrix_ = tensor.matrix();
    return view;
  }

  const Matrix& matrix() const { return matrix_; }
  /// The only row of a vector of floats, or all elements in order.
  std::span<const float> floats() const {
    return {static_cast<const float*>(matrix_.data), static_cast<std::size_t>(matrix_.rows * matrix_.cols)};
  }
  HostTensor to_host(Backend& backend) const {
    HostTensor result = make_tensor(matrix_.dtype, {matrix_.rows, matrix_.cols});
    backend.download(result.storage.data(), matrix_.data, memory_.size());
    return result;
  }

 private:
  DeviceBuffer memory_;
  Matrix matrix_;
};

}  // namespace gptq
