#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace gptq {

/// A convolution over one axis or two, of weights (out, in, k) or (out, in, k0, k1): as a layer it is the
/// linear (out, in·k) that meets the patches which the kernel covers, one row a place of the kernel. An axis
/// that a one-dimensional convolution does not have is 1 long. Grouped convolutions are refused: their rows
/// meet different inputs.
struct Convolution {
  struct Axis {
    std::int64_t kernel = 1, stride = 1, padding = 0, dilation = 1;

    /// Places of the kernel over an input of `size` cells; throws InputError where there is none.
    std::int64_t places(std::int64_t size) const;
  };
  std::int64_t in_channels = 0;
  Axis rows, columns;

  /// Of weight.shape: out, in and the kernel; strides, paddings and dilations are the module's. Throws
  /// InputError for a shape of another kind.
  static Convolution of(const HostTensor& weight, std::int64_t in_channels);

  /// Columns of the layer, in the order of the weight's elements.
  std::int64_t in_features() const { return in_channels * rows.kernel * columns.kernel; }
};

/// The patches of one sample: (places, in_features) f32, places row by row; cells outside the input are 0.
/// input: (channels, height·width) f32. These are the rows that the layer's Hessian is summed over.
HostTensor unfold(const Convolution& convolution, const Matrix& input, std::int64_t height,
                  std::int64_t width);

}  // namespace gptq
