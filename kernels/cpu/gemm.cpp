#include "kernels/cpu/gemm.h"

#include <omp.h>

#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "base/error.h"
#include "base/tensor.h"
#include "kernels/cpu/library.h"

namespace gptq {
namespace {

struct Hash {
  std::size_t operator()(const GemmShape& s) const {
    std::size_t h = 0;
    for (const std::int64_t v : {s.m, s.n, s.k, s.lda, s.ldb, s.ldc})
      h = (h ^ static_cast<std::size_t>(v)) * 0x9e3779b97f4a7c15u;
    return h ^ (s.transpose_a * 1u + s.transpose_b * 2u + s.accumulate * 4u + (s.in == DType::bf16) * 8u +
                (s.out == DType::bf16) * 16u);
  }
};

dnnl::memory::desc stored(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t stride,
                          bool transposed) {
  using Dims = dnnl::memory::dims;
  return {Dims{rows, cols}, library_type(dtype), transposed ? Dims{1, stride} : Dims{stride, 1}};
}

LibraryProduct make(const GemmShape& s) {
  return LibraryProduct(stored(s.m, s.k, s.in, s.lda, s.transpose_a),
                        stored(s.k, s.n, s.in, s.ldb, s.transpose_b), {},
                        stored(s.m, s.n, s.out, s.ldc, false), s.accumulate);
}

}  // namespace

void gemm(const GemmShape& shape, const void* a, const void* b, void* c) {
  if (shape.m == 0 || shape.n == 0) return;
  GPTQ_EXPECT(shape.k > 0);
  thread_local std::unordered_map<GemmShape, LibraryProduct, Hash> products;
  auto found = products.find(shape);
  if (found == products.end()) found = products.emplace(shape, make(shape)).first;
  found->second.run(a, b, c);
}

void keep_library_on_this_thread() {
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
}

}  // namespace gptq
