#include "base/tensor.h"

#include <cstdlib>
#include <memory>
#include <utility>

#include "base/error.h"

namespace gptq {
namespace {

constexpr std::size_t kAlignment = 64;

template <typename From>
void convert_from(const HostTensor& source, HostTensor& target) {
  const std::int64_t count = source.elements();
  const From* in = reinterpret_cast<const From*>(source.storage.data());
  const auto each = [&](auto* out, auto&& round) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = round(to_float(in[i]));
  };
  std::byte* out = target.storage.data();
  switch (target.dtype) {
    case DType::f32:
      return each(reinterpret_cast<float*>(out), [](float v) { return v; });
    case DType::bf16:
      return each(reinterpret_cast<bf16*>(out), to_bf16);
    case DType::f16:
      return each(reinterpret_cast<f16*>(out), to_f16);
    default:
      contract_violation("target is a floating type", __FILE__, __LINE__);
  }
}

}  // namespace

void HostBuffer::Free::operator()(std::byte* pointer) const {
  std::free(pointer);
}

// Aligned by hand: glibc's aligned_alloc looks for a free piece larger than it then keeps, so a freed buffer
// never fits the next one of its own size, and a job that frees and takes the same buffers grows at every
// block.
HostBuffer::HostBuffer(std::size_t bytes) : bytes_(bytes) {
  std::size_t room = bytes + kAlignment;
  void* memory = std::malloc(room);
  if (memory == nullptr) {
    throw Error(ExitCode::io,
                fmt::format("out of host memory: {} bytes were asked for; use more ranks or nodes, "
                            "or fewer samples (see `gptq-hpc plan`)",
                            bytes));
  }
  memory_.reset(static_cast<std::byte*>(memory));
  data_ = static_cast<std::byte*>(std::align(kAlignment, bytes, memory, room));
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : memory_(std::move(other.memory_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  memory_ = std::move(other.memory_);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

std::int64_t HostTensor::elements() const {
  std::int64_t count = 1;
  for (std::int64_t extent : shape) count *= extent;
  return count;
}

Matrix HostTensor::matrix() const {
  const std::int64_t count = elements();
  const std::int64_t rows = shape.size() > 1 ? shape[0] : 1;
  const std::int64_t cols = rows == 0 ? 0 : count / rows;
  return {storage.data(), dtype, rows, cols, cols};
}

HostTensor make_tensor(DType dtype, std::vector<std::int64_t> shape) {
  HostTensor tensor{dtype, std::move(shape), {}};
  tensor.storage = HostBuffer(static_cast<std::size_t>(tensor.elements()) * size_of(dtype));
  return tensor;
}

HostTensor convert(const HostTensor& tensor, DType dtype) {
  HostTensor result = make_tensor(dtype, tensor.shape);
  switch (tensor.dtype) {
    case DType::f32:
      convert_from<float>(tensor, result);
      break;
    case DType::bf16:
      convert_from<bf16>(tensor, result);
      break;
    case DType::f16:
      convert_from<f16>(tensor, result);
      break;
    default:
      throw InputError("a tensor of type {} cannot be converted to {}", name_of(tensor.dtype),
                       name_of(dtype));
  }
  return result;
}

}  // namespace gptq
