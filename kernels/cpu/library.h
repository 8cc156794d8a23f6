#pragma once

#include <oneapi/dnnl/dnnl.hpp>

#include "base/dtype.h"

/// Private to kernels/cpu: the little that its files share of oneDNN.
namespace gptq {

dnnl::engine& library_engine();
dnnl::stream& library_stream();                     ///< the calling thread's
dnnl::memory::data_type library_type(DType dtype);  ///< f32 or bf16

/// One oneDNN matrix product of fixed shape, ready to run on the thread that made it (and no other).
class LibraryProduct {
 public:
  /// bias: {} for none, else (1, n) f32. b may have any layout, but not format_tag::any.
  LibraryProduct(const dnnl::memory::desc& a, const dnnl::memory::desc& b, const dnnl::memory::desc& bias,
                 const dnnl::memory::desc& c, bool accumulate);

  void run(const void* a, const void* b, void* c);
  /// b (and the bias, if any) as memory objects that threads share.
  void run(const void* a, const dnnl::memory& b, const dnnl::memory& bias, void* c);

  /// The layout of b that the library prefers for (m, k)·(k, n).
  static dnnl::memory::desc preferred_layout(std::int64_t m, std::int64_t n, std::int64_t k, DType dtype);

 private:
  void execute(dnnl_memory_t b, dnnl_memory_t bias);

  dnnl::matmul primitive_;
  dnnl::memory a_, b_, c_;
  dnnl::memory::desc scratchpad_layout_;
  dnnl::memory scratchpad_;
  void* scratchpad_data_ = nullptr;
};

}  // namespace gptq
