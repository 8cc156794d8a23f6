#include "quant/convolution.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"

namespace gptq {

std::int64_t Convolution::Axis::places(std::int64_t size) const {
  const std::int64_t covered = dilation * (kernel - 1) + 1;
  const std::int64_t room = size + 2 * padding - covered;
  if (room < 0)
    throw InputError("a kernel that covers {} cells does not fit in {} with {} of padding", covered, size,
                     padding);
  return room / stride + 1;
}

Convolution Convolution::of(const HostTensor& weight, std::int64_t in_channels) {
  const std::size_t axes = weight.shape.size();
  if (axes != 3 && axes != 4) {
    throw InputError("a convolution's weight is (out, in, k) or (out, in, k0, k1), not ({})",
                     fmt::join(weight.shape, ", "));
  }
  if (weight.shape[1] != in_channels) {
    throw InputError(
        "a convolution's weight ({}) meets {} of its {} channels: grouped convolutions cannot be quantized",
        fmt::join(weight.shape, ", "), weight.shape[1], in_channels);
  }
  Convolution convolution;
  convolution.in_channels = in_channels;
  if (axes == 4) convolution.rows.kernel = weight.shape[2];
  convolution.columns.kernel = weight.shape.back();
  return convolution;
}

HostTensor unfold(const Convolution& convolution, const Matrix& input, std::int64_t height,
                  std::int64_t width) {
  GPTQ_EXPECT(input.dtype == DType::f32 && input.rows == convolution.in_channels &&
              input.cols == height * width);
  const Convolution::Axis &rows = convolution.rows, &columns = convolution.columns;
  const std::int64_t down = rows.places(height), across = columns.places(width);
  HostTensor patches = make_tensor(DType::f32, {down * across, convolution.in_features()});
  auto* patch = reinterpret_cast<float*>(patches.storage.data());
  for (std::int64_t place = 0; place < down * across; ++place) {
    const std::int64_t top = place / across * rows.stride - rows.padding;
    const std::int64_t left = place % across * columns.stride - columns.padding;
    for (std::int64_t channel = 0; channel < convolution.in_channels; ++channel) {
      const float* const cells = input.row<float>(channel);
      for (std::int64_t i = 0; i < rows.kernel; ++i) {
        const std::int64_t y = top + i * rows.dilation;
        for (std::int64_t j = 0; j < columns.kernel; ++j) {
          const std::int64_t x = left + j * columns.dilation;
          const bool inside = y >= 0 && y < height && x >= 0 && x < width;
          *patch++ = inside ? cells[y * width + x] : 0;
        }
      }
    }
  }
  return patches;
}

}  // namespace gptq
