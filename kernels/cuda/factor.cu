#include <cfloat>
#include <cmath>
#include <cstddef>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/hessian_entry.cuh"

// Double precision throughout: on the GPUs this is made for it runs at f32's speed. Where it is slow a first
// try in f32 would pay, but which of the two succeeded would then decide the bytes.
namespace gptq::cuda {
namespace {

constexpr int kThreads = kEntryThreads;

__global__ void diagonal_kernel(const std::int64_t* sum, int n, std::int64_t* diagonal) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i < n) diagonal[i] = sum[panel_row(n, i) + i];
}

/// Upper triangle (column-major) of H + λI in reversed visiting order: matrix[a + b n], a <= b. Block (x, y):
/// rows [x·kThreads, …) of columns y, y + gridDim.y, …. Writes are coalesced; reads too where the order is
/// the natural one, else half of them gather within one row of the sum and half across rows.
__global__ void reversed_matrix_kernel(HessianView h, double* matrix) {
  const int a = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (a >= h.n) return;
  const int i = h.order[h.n - 1 - a];
  for (int b = static_cast<int>(blockIdx.y); b < h.n; b += static_cast<int>(gridDim.y)) {
    if (a > b) continue;
    matrix[a + static_cast<std::int64_t>(b) * h.n] = damped_hessian_entry(h, i, h.order[h.n - 1 - b]);
  }
}

/// r = the factor back in visiting order. The upper factor U of the reversed matrix, column-major, is as a
/// row-major array its lower one; reversing that array gives R, upper and row-major. *unusable = 1 if a
/// diagonal entry is no normal float: its inverse would be infinite, or it is NaN.
__global__ void unreverse_kernel(const double* factor, int n, float* r, int* unusable) {
  const int j = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (j >= n) return;
  const std::int64_t last = static_cast<std::int64_t>(n) * n - 1;
  for (int i = static_cast<int>(blockIdx.y); i < n; i += static_cast<int>(gridDim.y)) {
    const std::int64_t at = static_cast<std::int64_t>(i) * n + j;
    const float value = j >= i ? static_cast<float>(factor[last - at]) : 0.0f;
    r[at] = value;
    if (i == j && !(value >= FLT_MIN && value <= FLT_MAX)) atomicOr(unusable, 1);
  }
}

class SolverParameters {
 public:
  SolverParameters() { GPTQ_CUDA(cusolverDnCreateParams(&handle_)); }
  ~SolverParameters() { cusolverDnDestroyParams(handle_); }
  SolverParameters(const SolverParameters&) = delete;
  SolverParameters& operator=(const SolverParameters&) = delete;
  cusolverDnParams_t get() const { return handle_; }

 private:
  cusolverDnParams_t handle_ = nullptr;
};

/// Puts U with matrix = Uᵀ·U into its upper triangle (column-major) and the library's verdict into *info: 0,
/// or the order of the first leading minor that is not positive definite.
void cholesky(CudaContext& context, std::int64_t n, double* matrix, int* info) {
  const SolverParameters parameters;
  std::size_t device_bytes = 0, host_bytes = 0;
  GPTQ_CUDA(cusolverDnXpotrf_bufferSize(context.solver(), parameters.get(), CUBLAS_FILL_MODE_UPPER, n,
                                        CUDA_R_64F, matrix, n, CUDA_R_64F, &device_bytes, &host_bytes));
  const DeviceBuffer work = context.allocate(device_bytes);
  std::vector<std::byte> host_work(host_bytes);
  GPTQ_CUDA(cusolverDnXpotrf(context.solver(), parameters.get(), CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F,
                             matrix, n, CUDA_R_64F, work.data(), device_bytes, host_work.data(), host_bytes,
                             info));
  // The library may use its host memory until it is done.
  GPTQ_CUDA(cudaStreamSynchronize(context.stream()));
}

}  // namespace

void CudaKernels::hessian_diagonal(const std::int64_t* sum, std::span<const int> exponents, double scale,
                                   std::span<double> diagonal) {
  GPTQ_EXPECT(exponents.size() == diagonal.size());
  const std::size_t n = exponents.size();
  if (n == 0) return;
  const DeviceBuffer gathered = context_.allocate(n * sizeof(std::int64_t));
  launch(context_, diagonal_kernel, dim3(blocks_for(static_cast<std::int64_t>(n), kThreads)), dim3(kThreads),
         0, sum, static_cast<int>(n), gathered.as<std::int64_t>());
  std::vector<std::int64_t> host(n);
  context_.download(host.data(), gathered.data(), n * sizeof(std::int64_t));
  for (std::size_t i = 0; i < n; ++i) {
    const double unit = std::ldexp(1.0, -exponents[i]);
    diagonal[i] = static_cast<double>(host[i]) * scale * unit * unit;
  }
}

bool CudaKernels::factor(const FactorInput& input, float* r) {
  const std::int64_t n = input.n;
  const auto entries = static_cast<std::size_t>(n);
  if (n == 0) return true;

  const HessianTables tables(context_, input);
  // Not kept like other scratch: 22 GB for the widest layers, idle while activations need the room.
  const DeviceBuffer matrix = context_.allocate(entries * entries * sizeof(double));
  launch(context_, reversed_matrix_kernel, grid_of_entries(n), dim3(kThreads), 0, tables.view,
         matrix.as<double>());

  int verdict[2] = {0, 0};  // the library's, unreverse_kernel's
  auto* const flags = static_cast<int*>(context_.scratch(kScratchFlags, sizeof(verdict)));
  context_.upload(flags, verdict, sizeof(verdict));
  cholesky(context_, n, matrix.as<double>(), flags);
  launch(context_, unreverse_kernel, grid_of_entries(n), dim3(kThreads), 0, matrix.as<double>(),
         static_cast<int>(n), r, flags + 1);
  context_.download(verdict, flags, sizeof(verdict));
  GPTQ_EXPECT(verdict[0] >= 0);
  return verdict[0] == 0 && verdict[1] == 0;
}

}  // namespace gptq::cuda
