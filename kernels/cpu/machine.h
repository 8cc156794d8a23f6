#pragma once

#include <string>

namespace gptq {

std::string machine_name();    ///< what products and loops use: "avx512_core_bf16, x86-64-v4 loops"
bool machine_has_fast_bf16();  ///< bf16 products are faster than f32 ones: AVX-512 BF16 or AMX
bool machine_has_bf16();       ///< bf16 products exist, if only emulated
}  // namespace gptq
