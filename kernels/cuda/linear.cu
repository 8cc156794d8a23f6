#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/forward_pack.cuh"
#include "kernels/cuda/gemm.h"

namespace gptq::cuda {
namespace {

constexpr std::int64_t kTemporaryBytes = 16 << 20;  // of file data on the device at once

/// Rows of `in` elements to rows of `stride`, the rest 0. One block a row.
template <typename From, typename To>
__global__ void __launch_bounds__(256)
    convert_rows(const From* from, std::int64_t in, bool aligned, To* to, std::int64_t stride) {
  const From* const source = from + static_cast<std::int64_t>(blockIdx.x) * in;
  To* const target = to + static_cast<std::int64_t>(blockIdx.x) * stride;
  for (std::int64_t c = threadIdx.x * kPack; c < stride; c += blockDim.x * kPack)
    store_pack(target, c, stride, true, load_pack(source, c, in, aligned));
}

/// Some rows of a quantized layer, device memory.
struct QuantizedSlice {
  std::int64_t in, groups;
  const __half* scales;          ///< (rows, groups)
  const std::uint8_t* codes;     ///< (rows, in)
  const std::uint8_t* zeros;     ///< (rows, groups)
  const std::int32_t* group_of;  ///< (in)
};

/// The products are exact in f32 (11 bits by 9), so this rounds as the CPU does. One block a row.
template <typename To>
__global__ void __launch_bounds__(256) dequantize_rows(QuantizedSlice slice, To* to, std::int64_t stride) {
  const std::int64_t row = blockIdx.x;
  const std::uint8_t* const codes = slice.codes + row * slice.in;
  const __half* const scales = slice.scales + row * slice.groups;
  const std::uint8_t* const zeros = slice.zeros + row * slice.groups;
  for (std::int64_t c = threadIdx.x * kPack; c < stride; c += blockDim.x * kPack) {
    Pack values;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      values.v[i] = 0;
      if (c + i < slice.in) {
        const std::int32_t group = slice.group_of[c + i];
        const int steps = static_cast<int>(codes[c + i]) - static_cast<int>(zeros[group]);
        values.v[i] = to_float(scales[group]) * static_cast<float>(steps);
      }
    }
    store_pack(to + row * stride, c, stride, true, values);
  }
}

/// Rows [first, first+count) of a host matrix to dense rows on the device.
void stage_rows(CudaContext& context, void* to, const Matrix& from, std::int64_t first, std::int64_t count) {
  const auto row_bytes = static_cast<std::size_t>(from.cols) * size_of(from.dtype);
  const Matrix rows = from.rows_from(first, count);
  if (from.stride == from.cols)
    return context.stage_weights(to, rows.data, static_cast<std::size_t>(count) * row_bytes);
  for (std::int64_t r = 0; r < count; ++r)
    context.stage_weights(static_cast<std::byte*>(to) + static_cast<std::size_t>(r) * row_bytes,
                          rows.rows_from(r, 1).data, row_bytes);
}

template <typename From, typename To>
void convert(CudaContext& context, const void* from, std::int64_t rows, const CudaLinear& linear, To* to) {
  const std::int64_t in = linear.in_features();
  const std::int64_t row_bytes = in * static_cast<std::int64_t>(sizeof(From));
  launch(context.weights_stream(), &convert_rows<From, To>, blocks_for(rows, 1),
         threads_for_row(linear.stride()), 0, static_cast<const From*>(from), in, row_bytes % 16 == 0, to,
         linear.stride());
}

/// Slices follow one another through the same temporary memory, in stream order.
template <typename To>
void convert_weights(CudaContext& context, const Matrix& weight, CudaLinear& linear) {
  const std::int64_t row_bytes = weight.cols * static_cast<std::int64_t>(size_of(weight.dtype));
  const std::int64_t slice = std::clamp<std::int64_t>(kTemporaryBytes / row_bytes, 1, weight.rows);
  std::byte* const raw = linear.temporary(static_cast<std::size_t>(slice * row_bytes));
  for (std::int64_t first = 0; first < weight.rows; first += slice) {
    const std::int64_t count = std::min(slice, weight.rows - first);
    stage_rows(context, raw, weight, first, count);
    To* const to = static_cast<To*>(linear.weights()) + first * linear.stride();
    if (weight.dtype == DType::f32) convert<float>(context, raw, count, linear, to);
    if (weight.dtype == DType::f16) convert<__half>(context, raw, count, linear, to);
    if (weight.dtype == DType::bf16) convert<bfloat16>(context, raw, count, linear, to);
  }
}

template <typename To>
void dequantize_weights(CudaContext& context, const QuantizedWeights& weights, CudaLinear& linear) {
  const std::int64_t out = weights.out_features;
  const std::int64_t in = weights.in_features;
  const std::int64_t groups = weights.groups;
  const std::int64_t slice = std::clamp<std::int64_t>(kTemporaryBytes / (in + 3 * groups), 1, out);
  const std::size_t order_bytes = static_cast<std::size_t>(in) * sizeof(std::int32_t);
  const std::size_t scale_bytes = static_cast<std::size_t>(slice * groups) * sizeof(f16);
  const std::size_t code_bytes = static_cast<std::size_t>(slice * in);
  std::byte* const group_of =
      linear.temporary(order_bytes + scale_bytes + code_bytes + static_cast<std::size_t>(slice * groups));
  std::byte* const scales = group_of + order_bytes;
  std::byte* const codes = scales + scale_bytes;
  std::byte* const zeros = codes + code_bytes;
  const QuantizedSlice shape{in,
                             groups,
                             reinterpret_cast<const __half*>(scales),
                             reinterpret_cast<const std::uint8_t*>(codes),
                             reinterpret_cast<const std::uint8_t*>(zeros),
                             reinterpret_cast<const std::int32_t*>(group_of)};
  context.stage_weights(group_of, weights.group_of, order_bytes);
  for (std::int64_t first = 0; first < out; first += slice) {
    const std::int64_t count = std::min(slice, out - first);
    context.stage_weights(codes, weights.codes + first * in, static_cast<std::size_t>(count * in));
    context.stage_weights(scales, weights.scales + first * groups,
                          static_cast<std::size_t>(count * groups) * sizeof(f16));
    context.stage_weights(zeros, weights.zeros + first * groups, static_cast<std::size_t>(count * groups));
    launch(context.weights_stream(), &dequantize_rows<To>, blocks_for(count, 1),
           threads_for_row(linear.stride()), 0, shape,
           static_cast<To*>(linear.weights()) + first * linear.stride(), linear.stride());
  }
}

}  // namespace

void apply_linear(CudaContext& context, const Matrix& x, const CudaLinear& weights, const Matrix& y,
                  bool accumulate) {
  weights.wait();
  GemmShape shape;
  shape.m = x.rows;
  shape.n = weights.out_features();
  shape.k = weights.in_features();
  shape.transpose_b = true;
  shape.lda = x.stride;
  shape.ldb = weights.stride();
  shape.ldc = y.stride;
  shape.in = x.dtype;
  shape.out = y.dtype;
  shape.accumulate = accumulate;
  shape.bias = weights.bias();
  gemm(context, shape, x.data, weights.weights(), y.data);
}

std::unique_ptr<LinearWeights> CudaKernels::prepare_linear(const Matrix& weight, std::span<const float> bias,
                                                           DType compute) {
  GPTQ_EXPECT(weight.dtype == DType::f32 || weight.dtype == DType::f16 || weight.dtype == DType::bf16);
  auto linear = std::make_unique<CudaLinear>(context_, weight.rows, weight.cols, bias, compute);
  if (weight.dtype == compute && linear->stride() == weight.cols) {
    stage_rows(context_, linear->weights(), weight, 0, weight.rows);
    linear->set_exact();
  } else {
    with_compute_type(compute,
                      [&](auto type) { convert_weights<decltype(type)>(context_, weight, *linear); });
  }
  linear->prepared();
  return linear;
}

std::unique_ptr<LinearWeights> CudaKernels::prepare_quantized(const QuantizedWeights& weights,
                                                              std::span<const float> bias, DType compute) {
  auto linear =
      std::make_unique<CudaLinear>(context_, weights.out_features, weights.in_features, bias, compute);
  with_compute_type(compute,
                    [&](auto type) { dequantize_weights<decltype(type)>(context_, weights, *linear); });
  linear->prepared();
  return linear;
}

void CudaKernels::linear(const Batch& batch, const Matrix& x, const LinearWeights& weights, const Matrix& y,
                         bool accumulate) {
  const CudaLinear& own = cuda_linear(weights);
  GPTQ_EXPECT(x.dtype == own.compute() && x.cols == own.in_features() && x.rows == batch.rows());
  GPTQ_EXPECT(y.cols == own.out_features() && y.rows == x.rows);
  GPTQ_EXPECT(y.dtype == DType::f32 || y.dtype == x.dtype);
  apply_linear(context_, x, own, y, accumulate);
}

}  // namespace gptq::cuda
