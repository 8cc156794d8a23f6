#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <vector>

#include "tests/cuda_emulation/memory.h"
#include "tests/cuda_emulation/streams.h"

/// cuBLASLt's matrix product, D = alpha·op(A)·op(B) + beta·C, with its conventions: column-major unless the
/// layout's order says otherwise, arguments checked as the library documents them, sums in the compute type
/// in the order of k. What is not emulated gives CUBLAS_STATUS_NOT_SUPPORTED.
namespace {

constexpr std::size_t kWorkspace = 1 << 20;   ///< that an algorithm asks for, where the preference allows it
constexpr std::uint64_t kMagic = 0x47505451;  ///< marks an algorithm made by the heuristic here

struct Layout {
  cudaDataType type;
  std::int32_t order;
  std::uint64_t rows, cols;
  std::int64_t ld;
  std::int32_t batches;
  std::int64_t batch_stride;

  std::int64_t extent() const {
    const auto vectors = static_cast<std::int64_t>(order == CUBLASLT_ORDER_COL ? cols : rows);
    const auto length = static_cast<std::int64_t>(order == CUBLASLT_ORDER_COL ? rows : cols);
    return (batches - 1) * batch_stride + (vectors - 1) * ld + length;
  }
  bool valid() const {
    return ld >= static_cast<std::int64_t>(order == CUBLASLT_ORDER_COL ? rows : cols) && batches >= 1;
  }
  std::int64_t index(std::int64_t batch, std::int64_t row, std::int64_t col) const {
    return batch * batch_stride + (order == CUBLASLT_ORDER_COL ? row + col * ld : row * ld + col);
  }
};

struct Description {
  cublasComputeType_t compute;
  cudaDataType scale;
  std::int32_t pointer_mode, transpose_a, transpose_b;
  std::uint32_t epilogue;
};

struct Preference {
  std::uint64_t workspace;
  std::uint32_t reductions;
  std::uint32_t alignment[4];  ///< of A, B, C, D
};

struct Algorithm {
  std::uint64_t magic;
  std::uint64_t workspace;
  std::uint32_t alignment[4];
};

static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t));
static_assert(sizeof(Description) <= sizeof(cublasLtMatmulDescOpaque_t));
static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t));
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

/// Our value inside the library's opaque one.
template <typename T, typename Opaque>
T& value_of(Opaque* handle) {
  return *reinterpret_cast<T*>(handle);
}

template <typename T>
cublasStatus_t assign(T& field, const void* value, std::size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

std::size_t bytes_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_16BF:
    case CUDA_R_16F:
      return 2;
    case CUDA_R_32F:
      return 4;
    case CUDA_R_64F:
      return 8;
    default:
      return 0;
  }
}

double load(const void* data, cudaDataType type, std::int64_t i) {
  switch (type) {
    case CUDA_R_16BF:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    case CUDA_R_16F:
      return __half2float(static_cast<const __half*>(data)[i]);
    case CUDA_R_32F:
      return static_cast<const float*>(data)[i];
    default:
      return static_cast<const double*>(data)[i];
  }
}

void store(void* data, cudaDataType type, std::int64_t i, double value) {
  switch (type) {
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(static_cast<float>(value));
      break;
    case CUDA_R_16F:
      static_cast<__half*>(data)[i] = __float2half_rn(static_cast<float>(value));
      break;
    case CUDA_R_32F:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      break;
    default:
      static_cast<double*>(data)[i] = value;
  }
}

struct Product {
  Description description;
  Layout a, b, c, d;
  double alpha, beta;
  const void *a_data, *b_data, *c_data;
  void* d_data;

  std::int64_t m() const { return static_cast<std::int64_t>(d.rows); }
  std::int64_t n() const { return static_cast<std::int64_t>(d.cols); }
  std::int64_t k() const {
    return static_cast<std::int64_t>(description.transpose_a == CUBLAS_OP_N ? a.cols : a.rows);
  }
};

/// op(matrix) of one batch as (cols, rows): column after column.
template <typename T>
std::vector<T> columns(const void* data, const Layout& layout, bool transposed, std::int64_t batch) {
  const auto rows = static_cast<std::int64_t>(transposed ? layout.cols : layout.rows);
  const auto cols = static_cast<std::int64_t>(transposed ? layout.rows : layout.cols);
  std::vector<T> result(static_cast<std::size_t>(rows * cols));
  T* next = result.data();
  for (std::int64_t j = 0; j < cols; ++j)
    for (std::int64_t i = 0; i < rows; ++i)
      *next++ = static_cast<T>(
          load(data, layout.type, transposed ? layout.index(batch, j, i) : layout.index(batch, i, j)));
  return result;
}

template <typename T>
void multiply(const Product& p, std::int64_t batch) {
  const std::vector<T> a = columns<T>(p.a_data, p.a, p.description.transpose_a != CUBLAS_OP_N, batch);
  const std::vector<T> b = columns<T>(p.b_data, p.b, p.description.transpose_b != CUBLAS_OP_N, batch);
  const auto m = static_cast<std::size_t>(p.m());
  const auto k = static_cast<std::size_t>(p.k());
  std::vector<T> sum(m);
  for (std::int64_t col = 0; col < p.n(); ++col) {
    std::fill(sum.begin(), sum.end(), T{0});
    for (std::size_t l = 0; l < k; ++l) {
      const T factor = b[static_cast<std::size_t>(col) * k + l];
      for (std::size_t i = 0; i < m; ++i) sum[i] += a[l * m + i] * factor;
    }
    for (std::int64_t row = 0; row < p.m(); ++row) {
      T value = static_cast<T>(p.alpha) * sum[static_cast<std::size_t>(row)];
      if (p.beta != 0)  // C is not read otherwise
        value +=
            static_cast<T>(p.beta) * static_cast<T>(load(p.c_data, p.c.type, p.c.index(batch, row, col)));
      store(p.d_data, p.d.type, p.d.index(batch, row, col), static_cast<double>(value));
    }
  }
}

/// The combinations of types that the library's table for cublasLtMatmul() lists.
bool types_supported(const Description& description, const Layout& a, const Layout& b, const Layout& c,
                     const Layout& d) {
  if (a.type != b.type || c.type != d.type) return false;
  const bool halves = a.type == CUDA_R_16BF || a.type == CUDA_R_16F;
  switch (description.compute) {
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
      return description.scale == CUDA_R_32F && ((halves && (c.type == a.type || c.type == CUDA_R_32F)) ||
                                                 (a.type == CUDA_R_32F && c.type == CUDA_R_32F));
    case CUBLAS_COMPUTE_64F:
    case CUBLAS_COMPUTE_64F_PEDANTIC:
      return description.scale == CUDA_R_64F && a.type == CUDA_R_64F && c.type == CUDA_R_64F;
    default:
      return false;
  }
}

cublasStatus_t check_shapes(const Description& description, const Layout& a, const Layout& b, const Layout& c,
                            const Layout& d) {
  for (const Layout* layout : {&a, &b, &c, &d})
    if (!layout->valid() || layout->rows == 0 || layout->cols == 0) return CUBLAS_STATUS_INVALID_VALUE;
  const bool ta = description.transpose_a != CUBLAS_OP_N, tb = description.transpose_b != CUBLAS_OP_N;
  const std::uint64_t m = ta ? a.cols : a.rows, k = ta ? a.rows : a.cols;
  const std::uint64_t n = tb ? b.rows : b.cols, k_of_b = tb ? b.cols : b.rows;
  if (k != k_of_b || c.rows != m || c.cols != n || d.rows != m || d.cols != n)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (a.batches != d.batches || b.batches != d.batches || c.batches != d.batches)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (description.pointer_mode != CUBLASLT_POINTER_MODE_HOST ||
      description.epilogue != CUBLASLT_EPILOGUE_DEFAULT || !types_supported(description, a, b, c, d))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

bool aligned(const void* memory, std::uint32_t bytes) {
  return reinterpret_cast<std::uintptr_t>(memory) % bytes == 0;
}

void require_device(const void* data, const Layout& layout, const char* name) {
  emulation::require_device_memory(data, static_cast<std::size_t>(layout.extent()) * bytes_of(layout.type),
                                   name);
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int(0));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() {
  return CUBLAS_VERSION;
}
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "another status of cuBLAS";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  return cublasLtGetStatusName(status);
}

// ---- layouts

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{};
  value_of<Layout>(*layout) = {type, CUBLASLT_ORDER_COL, rows, cols, ld, 1, 0};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  auto& layout = value_of<Layout>(handle);
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return assign(layout.order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return assign(layout.rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return assign(layout.cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return assign(layout.ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return assign(layout.batches, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return assign(layout.batch_stride, value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

// ---- descriptions and preferences

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  *description = new cublasLtMatmulDescOpaque_t{};
  value_of<Description>(*description) = {compute,     scale,       CUBLASLT_POINTER_MODE_HOST,
                                         CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  auto& description = value_of<Description>(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return assign(description.transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return assign(description.transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return assign(description.pointer_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return assign(description.epilogue, value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t{};
  value_of<Preference>(*preference) = {0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  auto& preference = value_of<Preference>(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return assign(preference.workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return assign(preference.reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return assign(preference.alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return assign(preference.alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return assign(preference.alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return assign(preference.alignment[3], value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

// ---- products

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  if (requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t status = check_shapes(value_of<Description>(description), value_of<Layout>(a),
                                             value_of<Layout>(b), value_of<Layout>(c), value_of<Layout>(d));
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const auto& wanted = value_of<Preference>(preference);
  results[0] = {};
  auto& algorithm = value_of<Algorithm>(&results[0].algo);
  algorithm.magic = kMagic;
  algorithm.workspace = std::min<std::uint64_t>(wanted.workspace, kWorkspace);
  std::copy_n(wanted.alignment, 4, algorithm.alignment);
  results[0].workspaceSize = algorithm.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a_data, cublasLtMatrixLayout_t a, const void* b_data,
                              cublasLtMatrixLayout_t b, const void* beta, const void* c_data,
                              cublasLtMatrixLayout_t c, void* d_data, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  Product p{value_of<Description>(description),
            value_of<Layout>(a),
            value_of<Layout>(b),
            value_of<Layout>(c),
            value_of<Layout>(d),
            0,
            0,
            a_data,
            b_data,
            c_data,
            d_data};
  const cublasStatus_t status = check_shapes(p.description, p.a, p.b, p.c, p.d);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  p.alpha = load(alpha, p.description.scale, 0);
  p.beta = load(beta, p.description.scale, 0);
  if (algo != nullptr) {
    const auto& algorithm = value_of<const Algorithm>(algo);
    if (algorithm.magic != kMagic) return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_bytes < algorithm.workspace || !aligned(workspace, 256)) return CUBLAS_STATUS_INVALID_VALUE;
    const void* pointers[4] = {a_data, b_data, c_data, d_data};
    for (int i = 0; i < 4; ++i)
      if (!aligned(pointers[i], algorithm.alignment[i])) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  // In place only with one layout for both.
  if (c_data == d_data && (p.c.ld != p.d.ld || p.c.order != p.d.order)) return CUBLAS_STATUS_INVALID_VALUE;

  const std::lock_guard lock(emulation::machine_mutex());
  if (workspace_bytes > 0)
    emulation::require_device_memory(workspace, workspace_bytes, "cuBLASLt's workspace");
  require_device(a_data, p.a, "cuBLASLt's A");
  require_device(b_data, p.b, "cuBLASLt's B");
  if (p.beta != 0) require_device(c_data, p.c, "cuBLASLt's C");
  require_device(d_data, p.d, "cuBLASLt's D");
  emulation::submit(stream, [p, workspace, workspace_bytes] {
    // The workspace belongs to the product while it runs.
    if (workspace_bytes > 0) std::memset(workspace, 0xff, std::min(workspace_bytes, kWorkspace));
    for (std::int64_t batch = 0; batch < p.d.batches; ++batch) {
      if (p.description.scale == CUDA_R_64F)
        multiply<double>(p, batch);
      else
        multiply<float>(p, batch);
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}
