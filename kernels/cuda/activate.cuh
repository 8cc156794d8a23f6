#pragma once

#include "kernels/kernels.h"

/// Private to kernels/cuda.
namespace gptq::cuda {

template <Activation kActivation>
__device__ inline float activate(float x) {
  if constexpr (kActivation == Activation::silu) return x / (1.0f + expf(-x));
  if constexpr (kActivation == Activation::gelu_tanh)
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
  if constexpr (kActivation == Activation::gelu) return 0.5f * x * (1.0f + erff(0.70710678f * x));
  if constexpr (kActivation == Activation::relu) return x < 0 ? 0.0f : x;
}

}  // namespace gptq::cuda
