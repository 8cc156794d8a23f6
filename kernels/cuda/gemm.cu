#include "kernels/cuda/gemm.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <type_traits>

#include "base/error.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

constexpr std::size_t kAlignment = 16;             // bytes; told to the heuristic, whatever memory has more
constexpr std::int64_t kProductBytes = 256 << 20;  // of C's rows that are finished through scratch at once
constexpr std::int64_t kSliceRows = 128;           // their number is a multiple of it

template <auto kDestroy>
struct Destroy {
  template <typename T>
  void operator()(T* handle) const {
    static_cast<void>(kDestroy(handle));
  }
};
template <typename Handle, auto kDestroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<kDestroy>>;

using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t data_type(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// The library's matrices are column-major: a row-major matrix is its own transpose there, and the product
/// becomes Cᵀ = Bᵀ·Aᵀ.
Layout layout(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride) {
  cublasLtMatrixLayout_t made = nullptr;
  GPTQ_CUDA(cublasLtMatrixLayoutCreate(&made, data_type(dtype), static_cast<std::uint64_t>(cols),
                                       static_cast<std::uint64_t>(rows), stride));
  return Layout(made);
}

struct Problem {
  Description description;
  Layout a, b, c;

  explicit Problem(const GemmShape& s)
      : a(s.transpose_a ? layout(s.in, s.k, s.m, s.lda) : layout(s.in, s.m, s.k, s.lda)),
        b(s.transpose_b ? layout(s.in, s.n, s.k, s.ldb) : layout(s.in, s.k, s.n, s.ldb)),
        c(layout(s.out, s.m, s.n, s.ldc)) {
    cublasLtMatmulDesc_t made = nullptr;
    // "Pedantic" keeps f32 products in f32 even where the environment asks for their emulation.
    const auto arithmetic = s.in == DType::f32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
    GPTQ_CUDA(cublasLtMatmulDescCreate(&made, arithmetic, CUDA_R_32F));
    description.reset(made);
    // The library's first operand is our B.
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_b);
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_a);
  }

 private:
  void set_transposed(cublasLtMatmulDescAttributes_t attribute, bool transposed) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    GPTQ_CUDA(cublasLtMatmulDescSetAttribute(description.get(), attribute, &operation, sizeof operation));
  }
};

template <typename T>
void set_preference(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  GPTQ_CUDA(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value));
}

cublasLtMatmulAlgo_t choose_algorithm(CudaContext& context, const GemmShape& s, const Problem& problem) {
  cublasLtMatmulPreference_t made = nullptr;
  GPTQ_CUDA(cublasLtMatmulPreferenceCreate(&made));
  const Preference preference(made);
  const std::uint64_t workspace = CudaContext::kBlasWorkspace;
  set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  // Splitting k is deterministic where the parts meet in the workspace, in f32.
  set_preference(
      preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  for (const auto alignment :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set_preference(preference, alignment, static_cast<std::uint32_t>(kAlignment));

  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      context.blas(), problem.description.get(), problem.b.get(), problem.a.get(), problem.c.get(),
      problem.c.get(), preference.get(), 1, &result, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0)) {
    throw DeviceError(
        "cuBLASLt knows no way to multiply ({} x {}){} by ({} x {}){} in {} to {} on this device; another "
        "CUDA version may, or compute on the CPU (backend: cpu)",
        s.m, s.k, s.transpose_a ? " transposed" : "", s.k, s.n, s.transpose_b ? " transposed" : "",
        name_of(s.in), name_of(s.out));
  }
  GPTQ_CUDA(status);
  GPTQ_CUDA(result.state);
  return result.algo;
}

/// Algorithms already chosen, on any device of this process.
cublasLtMatmulAlgo_t algorithm(CudaContext& context, const GemmShape& s, const Problem& problem) {
  using Key = std::tuple<int, std::int64_t, std::int64_t, std::int64_t, bool, bool, std::int64_t,
                         std::int64_t, std::int64_t, DType, DType, bool>;
  static std::mutex mutex;
  static std::map<Key, cublasLtMatmulAlgo_t> chosen;
  const Key key{
      context.device(), s.m, s.n, s.k, s.transpose_a, s.transpose_b, s.lda, s.ldb, s.ldc, s.in, s.out,
      s.accumulate};
  const std::lock_guard lock(mutex);
  auto place = chosen.find(key);
  if (place == chosen.end()) place = chosen.emplace(key, choose_algorithm(context, s, problem)).first;
  return place->second;
}

/// Every matrix aligned, no bias.
void multiply(CudaContext& context, const GemmShape& s, const void* a, const void* b, void* c) {
  const Problem problem(s);
  const cublasLtMatmulAlgo_t algo = algorithm(context, s, problem);
  const float one = 1;
  const float keep = s.accumulate ? 1 : 0;
  GPTQ_CUDA(cublasLtMatmul(context.blas(), problem.description.get(), &one, b, problem.b.get(), a,
                           problem.a.get(), &keep, c, problem.c.get(), c, problem.c.get(), &algo,
                           context.blas_workspace(), CudaContext::kBlasWorkspace, context.stream()));
}

/// Rows of `cols` elements, the rest of each row of the copy 0. One block a row.
template <typename T>
__global__ void __launch_bounds__(256)
    copy_rows(const T* from, std::int64_t stride, std::int64_t cols, T* to, std::int64_t to_stride) {
  const T* const in = from + static_cast<std::int64_t>(blockIdx.x) * stride;
  T* const out = to + static_cast<std::int64_t>(blockIdx.x) * to_stride;
  for (std::int64_t c = threadIdx.x * kPack; c < to_stride; c += blockDim.x * kPack)
    store_pack(out, c, to_stride, true, load_pack(in, c, cols, false));
}

/// c = product (+ c) (+ bias), rounded once. product may be c. One block a row.
template <typename T>
__global__ void __launch_bounds__(256)
    finish_rows(const float* product, std::int64_t product_stride, bool aligned, const float* bias,
                bool accumulate, T* c, std::int64_t c_stride, std::int64_t cols, bool c_aligned) {
  const float* const in = product + static_cast<std::int64_t>(blockIdx.x) * product_stride;
  T* const out = c + static_cast<std::int64_t>(blockIdx.x) * c_stride;
  for (std::int64_t col = threadIdx.x * kPack; col < cols; col += blockDim.x * kPack) {
    Pack sum = load_pack(in, col, cols, aligned);
    if (bias != nullptr) {
      const Pack more = load_pack(bias, col, cols, aligned);
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum.v[i] += more.v[i];
    }
    if (accumulate) {
      const Pack old = load_pack(out, col, cols, c_aligned);
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum.v[i] += old.v[i];
    }
    store_pack(out, col, cols, c_aligned, sum);
  }
}

void finish(const CudaContext& context, const GemmShape& s, const float* product, std::int64_t stride,
            bool accumulate, void* c) {
  const bool aligned = rows_aligned(product, stride, DType::f32) && rows_aligned(s.bias, kPack, DType::f32);
  with_compute_type(s.out, [&](auto type) {
    using T = decltype(type);
    launch(context, &finish_rows<T>, blocks_for(s.m, 1), threads_for_row(s.n), 0, product, stride, aligned,
           s.bias, accumulate, static_cast<T*>(c), s.ldc, s.n, rows_aligned(c, s.ldc, s.out));
  });
}

std::int64_t padded(std::int64_t cols) {
  return (cols + kPack - 1) / kPack * kPack;
}

/// An operand as it is stored, or where its aligned copy goes.
struct Operand {
  const void* data;
  DType dtype;
  std::int64_t rows, cols, stride;

  bool aligned() const { return rows_aligned(data, stride, dtype); }
  std::size_t copy_bytes() const {
    return aligned() ? 0 : static_cast<std::size_t>(rows * padded(cols)) * size_of(dtype);
  }
  /// Moves the operand to `place` unless it is aligned; returns what follows it there.
  std::byte* align(const CudaContext& context, std::byte* place) {
    const std::size_t bytes = copy_bytes();
    if (bytes == 0) return place;
    with_compute_type(dtype, [&](auto type) {
      using T = decltype(type);
      launch(context, &copy_rows<T>, blocks_for(rows, 1), threads_for_row(cols), 0,
             static_cast<const T*>(data), stride, cols, reinterpret_cast<T*>(place), padded(cols));
    });
    data = place;
    stride = padded(cols);
    return place + bytes;
  }
};

/// Products that go through scratch in f32, some rows of C at a time. A and B are aligned.
void multiply_through(CudaContext& context, const GemmShape& s, const void* a, const void* b, void* c,
                      std::int64_t slice, float* product) {
  for (std::int64_t first = 0; first < s.m; first += slice) {
    GemmShape part = s;
    part.m = std::min(slice, s.m - first);
    part.ldc = padded(s.n);
    part.out = DType::f32;
    part.accumulate = false;
    const std::int64_t skipped = s.transpose_a ? first : first * s.lda;
    multiply(context, part, static_cast<const std::byte*>(a) + skipped * size_of(s.in), b, product);
    part.ldc = s.ldc;
    part.out = s.out;
    finish(context, part, product, padded(s.n), s.accumulate,
           static_cast<std::byte*>(c) + first * s.ldc * size_of(s.out));
  }
}

std::int64_t rows_of_slice(const GemmShape& s) {
  const std::int64_t fitting = kProductBytes / (padded(s.n) * 4);
  return std::min(s.m, std::max(kSliceRows, fitting / kSliceRows * kSliceRows));
}

}  // namespace

void gemm(CudaContext& context, const GemmShape& shape, const void* a, const void* b, void* c) {
  if (shape.m == 0 || shape.n == 0) return;
  GPTQ_EXPECT(shape.k > 0);
  GPTQ_EXPECT(shape.in == DType::f32 || shape.in == DType::bf16);
  GPTQ_EXPECT(shape.out == DType::f32 || shape.out == shape.in);

  Operand left{a, shape.in, shape.m, shape.k, shape.lda};
  Operand right{b, shape.in, shape.k, shape.n, shape.ldb};
  if (shape.transpose_a) std::swap(left.rows, left.cols);
  if (shape.transpose_b) std::swap(right.rows, right.cols);
  // A bias is added before the rounding, hence to the product in f32.
  const bool through =
      !rows_aligned(c, shape.ldc, shape.out) || (shape.bias != nullptr && shape.out == DType::bf16);
  const std::int64_t slice = rows_of_slice(shape);
  const std::size_t product_bytes = through ? static_cast<std::size_t>(slice * padded(shape.n)) * 4 : 0;
  const std::size_t bytes = left.copy_bytes() + right.copy_bytes() + product_bytes;
  auto* place = bytes == 0 ? nullptr : static_cast<std::byte*>(context.scratch(kScratchGemm, bytes));
  auto* const product = reinterpret_cast<float*>(place);
  if (place != nullptr) place = right.align(context, left.align(context, place + product_bytes));

  GemmShape aligned = shape;
  aligned.lda = left.stride;
  aligned.ldb = right.stride;
  if (through) return multiply_through(context, aligned, left.data, right.data, c, slice, product);
  multiply(context, aligned, left.data, right.data, c);
  if (shape.bias != nullptr) finish(context, shape, static_cast<const float*>(c), shape.ldc, false, c);
}

}  // namespace gptq::cuda
