#include "kernels/cpu/machine.h"

#include <fmt/format.h>

#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/cpu/isa/isa.h"

namespace gptq {
namespace {

bool reaches(dnnl::cpu_isa wanted) {
  // The library orders its levels by inclusion of bits.
  const auto have = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  return (have & static_cast<unsigned>(wanted)) == static_cast<unsigned>(wanted);
}

const char* library_level() {
  if (reaches(dnnl::cpu_isa::avx512_core_amx)) return "amx";
  if (reaches(dnnl::cpu_isa::avx512_core_bf16)) return "avx512_core_bf16";
  if (reaches(dnnl::cpu_isa::avx512_core)) return "avx512_core";
  if (reaches(dnnl::cpu_isa::avx2)) return "avx2";
  return "sse41";
}

}  // namespace

std::string machine_name() {
  return fmt::format("{} products, {} loops", library_level(), isa_name());
}
bool machine_has_fast_bf16() {
  return reaches(dnnl::cpu_isa::avx512_core_bf16);
}
bool machine_has_bf16() {
  return reaches(dnnl::cpu_isa::avx512_core);
}

}  // namespace gptq
