#include <cusolverDn.h>

#include <cmath>
#include <cstdint>
#include <mutex>

#include "tests/cuda_emulation/memory.h"
#include "tests/cuda_emulation/streams.h"

/// cuSOLVER's Cholesky factorization with its conventions: column-major, one triangle read and written.
namespace {

constexpr std::size_t kHostWork = 64;  ///< asked for, so that forgetting it shows

struct Solver {
  cudaStream_t stream = nullptr;
};

Solver& solver_of(cusolverDnHandle_t handle) {
  return *reinterpret_cast<Solver*>(handle);
}

bool arguments_valid(std::int64_t n, cudaDataType type, std::int64_t ld, cudaDataType compute) {
  return n >= 0 && ld >= n && ld >= 1 && (type == CUDA_R_64F || type == CUDA_R_32F) && compute == type;
}

std::size_t size_of(cudaDataType type) {
  return type == CUDA_R_64F ? 8 : 4;
}

std::size_t device_work(std::int64_t n, cudaDataType type) {
  return (static_cast<std::size_t>(n) + 32) * size_of(type);
}

/// A = UᵀU (upper) or LLᵀ (lower), row by row of U. Returns 0, or the order of the first leading minor that
/// is not positive definite.
template <typename T>
int cholesky(T* a, std::int64_t n, std::int64_t ld, bool upper) {
  // Entry (i, j), i <= j, of U; of Lᵀ for the lower triangle.
  const auto at = [=](std::int64_t i, std::int64_t j) -> T& { return upper ? a[i + j * ld] : a[j + i * ld]; };
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i; j < n; ++j) {
      T sum = at(i, j);
      for (std::int64_t k = 0; k < i; ++k) sum -= at(k, i) * at(k, j);
      if (j > i) {
        at(i, j) = sum / at(i, i);
      } else {
        if (!(sum > 0)) return static_cast<int>(i + 1);
        at(i, i) = std::sqrt(sum);
      }
    }
  }
  return 0;
}

}  // namespace

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  *handle = reinterpret_cast<cusolverDnHandle_t>(new Solver);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  delete &solver_of(handle);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  solver_of(handle).stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetDeterministicMode(cusolverDnHandle_t, cusolverDeterministicMode_t) {
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* parameters) {
  *parameters = reinterpret_cast<cusolverDnParams_t>(new int(0));
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t parameters) {
  delete reinterpret_cast<int*>(parameters);
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cublasFillMode_t,
                                             int64_t n, cudaDataType type, const void*, int64_t ld,
                                             cudaDataType compute, size_t* device_bytes, size_t* host_bytes) {
  if (!arguments_valid(n, type, ld, compute)) return CUSOLVER_STATUS_INVALID_VALUE;
  *device_bytes = device_work(n, type);
  *host_bytes = kHostWork;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t handle, cusolverDnParams_t, cublasFillMode_t triangle,
                                  int64_t n, cudaDataType type, void* a, int64_t ld, cudaDataType compute,
                                  void* work, size_t work_bytes, void* host_work, size_t host_bytes,
                                  int* info) {
  if (!arguments_valid(n, type, ld, compute) || work_bytes < device_work(n, type) || host_bytes < kHostWork ||
      host_work == nullptr || (triangle != CUBLAS_FILL_MODE_UPPER && triangle != CUBLAS_FILL_MODE_LOWER))
    return CUSOLVER_STATUS_INVALID_VALUE;
  const std::lock_guard lock(emulation::machine_mutex());
  const auto columns = static_cast<std::size_t>(n), stride = static_cast<std::size_t>(ld);
  if (n > 0)
    emulation::require_device_memory(a, ((columns - 1) * stride + columns) * size_of(type), "cuSOLVER's A");
  emulation::require_device_memory(work, work_bytes, "cuSOLVER's workspace");
  emulation::require_device_memory(info, sizeof(int), "cuSOLVER's info");
  const bool upper = triangle == CUBLAS_FILL_MODE_UPPER;
  emulation::submit(solver_of(handle).stream, [=] {
    *info = type == CUDA_R_64F ? cholesky(static_cast<double*>(a), n, ld, upper)
                               : cholesky(static_cast<float*>(a), n, ld, upper);
  });
  return CUSOLVER_STATUS_SUCCESS;
}
