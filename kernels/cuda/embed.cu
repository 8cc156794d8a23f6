#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

struct Table {
  std::int64_t cols;
  std::int64_t stride, out_stride;
  bool aligned;
};

/// One block a row of the result.
template <typename T>
__global__ void __launch_bounds__(256)
    gather(Table shape, const std::int32_t* ids, const T* table, float* out) {
  const std::int64_t row = blockIdx.x;
  const T* const from = table + static_cast<std::int64_t>(ids[row]) * shape.stride;
  float* const to = out + row * shape.out_stride;
  for (std::int64_t c = threadIdx.x * kPack; c < shape.cols; c += blockDim.x * kPack)
    store_pack(to, c, shape.cols, shape.aligned, load_pack(from, c, shape.cols, shape.aligned));
}

template <typename T>
void gather_rows(const CudaContext& context, const std::int32_t* ids, const Matrix& table,
                 const Matrix& out) {
  const Table shape{out.cols, table.stride, out.stride, rows_aligned(table) && rows_aligned(out)};
  launch(context, &gather<T>, blocks_for(out.rows, 1), threads_for_row(out.cols), 0, shape, ids,
         table.row<T>(0), out.row<float>(0));
}

}  // namespace

void CudaKernels::embed(std::span<const std::int32_t> ids, const Matrix& table, const Matrix& out) {
  GPTQ_EXPECT(out.dtype == DType::f32 && out.rows == static_cast<std::int64_t>(ids.size()) &&
              out.cols == table.cols);
  for (const std::int32_t id : ids) GPTQ_EXPECT(id >= 0 && id < table.rows);
  if (ids.empty()) return;
  auto* const device_ids = static_cast<std::int32_t*>(context_.scratch(kScratchIds, ids.size_bytes()));
  context_.upload(device_ids, ids.data(), ids.size_bytes());
  switch (table.dtype) {
    case DType::f32:
      return gather_rows<float>(context_, device_ids, table, out);
    case DType::bf16:
      return gather_rows<bfloat16>(context_, device_ids, table, out);
    case DType::f16:
      return gather_rows<__half>(context_, device_ids, table, out);
    default:
      contract_violation("the embedding is of a floating type", __FILE__, __LINE__);
  }
}

}  // namespace gptq::cuda
