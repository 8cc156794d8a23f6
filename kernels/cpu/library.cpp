#include "kernels/cpu/library.h"

#include "base/error.h"
#include "base/tensor.h"
#include "kernels/cpu/gemm.h"

namespace gptq {
namespace {

/// This thread's scratch memory for library calls, grown to the largest product so far.
void* scratchpad(std::size_t bytes) {
  thread_local HostBuffer buffer;
  if (buffer.size() < bytes) buffer = HostBuffer(bytes);
  return buffer.data();
}

dnnl::primitive_attr attributes(bool accumulate) {
  dnnl::primitive_attr result;
  result.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops operations;
    operations.append_sum(1.0f);
    result.set_post_ops(operations);
  }
  return result;
}

dnnl::matmul::primitive_desc describe(const dnnl::memory::desc& a, const dnnl::memory::desc& b,
                                      const dnnl::memory::desc& bias, const dnnl::memory::desc& c,
                                      bool accumulate) {
  keep_library_on_this_thread();
  const dnnl::matmul::desc product =
      bias.is_zero() ? dnnl::matmul::desc(a, b, c) : dnnl::matmul::desc(a, b, bias, c);
  try {
    return dnnl::matmul::primitive_desc(product, attributes(accumulate), library_engine());
  } catch (const dnnl::error& error) {
    throw DeviceError(
        "oneDNN has no {} product of ({}, {})·({}, {}) on this machine ({}); set compute.dtype: fp32",
        a.data_type() == dnnl::memory::data_type::bf16 ? "bf16" : "f32", a.dims()[0], a.dims()[1],
        b.dims()[0], b.dims()[1], error.what());
  }
}

}  // namespace

dnnl::engine& library_engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& library_stream() {
  thread_local dnnl::stream own(library_engine());
  return own;
}

dnnl::memory::data_type library_type(DType dtype) {
  GPTQ_EXPECT(dtype == DType::f32 || dtype == DType::bf16);
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

LibraryProduct::LibraryProduct(const dnnl::memory::desc& a, const dnnl::memory::desc& b,
                               const dnnl::memory::desc& bias, const dnnl::memory::desc& c, bool accumulate) {
  const dnnl::matmul::primitive_desc description = describe(a, b, bias, c, accumulate);
  primitive_ = dnnl::matmul(description);
  a_ = dnnl::memory(a, library_engine(), DNNL_MEMORY_NONE);
  b_ = dnnl::memory(b, library_engine(), DNNL_MEMORY_NONE);
  c_ = dnnl::memory(c, library_engine(), DNNL_MEMORY_NONE);
  scratchpad_layout_ = description.scratchpad_desc();
  scratchpad_ = dnnl::memory(scratchpad_layout_, library_engine(), DNNL_MEMORY_NONE);
}

void LibraryProduct::run(const void* a, const void* b, void* c) {
  b_.set_data_handle(const_cast<void*>(b));
  a_.set_data_handle(const_cast<void*>(a));
  c_.set_data_handle(c);
  execute(b_.get(), nullptr);
}

void LibraryProduct::run(const void* a, const dnnl::memory& b, const dnnl::memory& bias, void* c) {
  a_.set_data_handle(const_cast<void*>(a));
  c_.set_data_handle(c);
  execute(b.get(), bias.get(true));
}

void LibraryProduct::execute(dnnl_memory_t b, dnnl_memory_t bias) {
  keep_library_on_this_thread();
  void* const scratch = scratchpad(scratchpad_layout_.get_size());
  if (scratch != scratchpad_data_) {
    scratchpad_.set_data_handle(scratch);
    scratchpad_data_ = scratch;
  }
  const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, a_.get()},
                                       {DNNL_ARG_WEIGHTS, b},
                                       {DNNL_ARG_DST, c_.get()},
                                       {DNNL_ARG_SCRATCHPAD, scratchpad_.get()},
                                       {DNNL_ARG_BIAS, bias}};
  const int count = bias == nullptr ? 4 : 5;
  if (dnnl_primitive_execute(primitive_.get(), library_stream().get(), count, arguments) != dnnl_success) {
    throw DeviceError("oneDNN failed to run a matrix product; is the machine out of memory?");
  }
}

dnnl::memory::desc LibraryProduct::preferred_layout(std::int64_t m, std::int64_t n, std::int64_t k,
                                                    DType dtype) {
  using Desc = dnnl::memory::desc;
  using Tag = dnnl::memory::format_tag;
  const auto type = library_type(dtype);
  return describe(Desc({m, k}, type, Tag::ab), Desc({k, n}, type, Tag::any), {}, Desc({m, n}, type, Tag::ab),
                  false)
      .weights_desc();
}

}  // namespace gptq
