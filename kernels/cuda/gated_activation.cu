#include "base/error.h"
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

struct Gates {
  std::int64_t cols;
  std::int64_t gate_stride, up_stride, out_stride;
  bool aligned;
};

/// One block a row. out may be gate or up.
template <Activation kActivation, typename T>
__global__ void __launch_bounds__(256) gate_rows(Gates gates, const T* gate, const T* up, T* out) {
  const std::int64_t row = blockIdx.x;
  const T* const gate_row = gate + row * gates.gate_stride;
  const T* const up_row = up + row * gates.up_stride;
  T* const out_row = out + row * gates.out_stride;
  for (std::int64_t c = threadIdx.x * kPack; c < gates.cols; c += blockDim.x * kPack) {
    const Pack a = load_pack(gate_row, c, gates.cols, gates.aligned);
    Pack b = load_pack(up_row, c, gates.cols, gates.aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) b.v[i] *= activate<kActivation>(a.v[i]);
    store_pack(out_row, c, gates.cols, gates.aligned, b);
  }
}

template <Activation kActivation>
void gate(const CudaContext& context, const Matrix& gates, const Matrix& up, const Matrix& out) {
  const Gates shape{out.cols, gates.stride, up.stride, out.stride,
                    rows_aligned(gates) && rows_aligned(up) && rows_aligned(out)};
  with_compute_type(out.dtype, [&](auto type) {
    using T = decltype(type);
    launch(context, &gate_rows<kActivation, T>, blocks_for(out.rows, 1), threads_for_row(out.cols), 0, shape,
           gates.row<T>(0), up.row<T>(0), out.row<T>(0));
  });
}

}  // namespace

void CudaKernels::gated_activation(Activation activation, const Matrix& gate_input, const Matrix& up,
                                   const Matrix& out) {
  GPTQ_EXPECT(gate_input.dtype == up.dtype && up.dtype == out.dtype);
  GPTQ_EXPECT(out.dtype == DType::f32 || out.dtype == DType::bf16);
  GPTQ_EXPECT(gate_input.rows == out.rows && up.rows == out.rows);
  GPTQ_EXPECT(gate_input.cols == out.cols && up.cols == out.cols);
  switch (activation) {
    case Activation::silu:
      return gate<Activation::silu>(context_, gate_input, up, out);
    case Activation::gelu_tanh:
      return gate<Activation::gelu_tanh>(context_, gate_input, up, out);
    case Activation::gelu:
      return gate<Activation::gelu>(context_, gate_input, up, out);
    case Activation::relu:
      return gate<Activation::relu>(context_, gate_input, up, out);
  }
  contract_violation("a known activation", __FILE__, __LINE__);
}

}  // namespace gptq::cuda
