#pragma once

#include "kernels/cuda/solve_grid.cuh"

/// Private to the refinement.
namespace gptq::cuda {

struct ScaleStep {
  float scale;
  float step;  ///< new scale − old scale
};

/// The best scale of a group, given its codes; the old one where the objective would not fall. A step d
/// changes that by d²·curve − 2d·gain, with gain = u·g and curve = u·H·uᵀ of the group's units u (code −
/// zero).
__device__ inline ScaleStep best_scale(float scale, float gain, float curve) {
  const float wish = scale + gain / curve;
  const float rounded = to_positive_half(wish > 0.0f ? wish : 0.0f);
  const float step = rounded - scale;
  const bool better = curve > 0.0f && __fmul_rn(step, fmaf(step, curve, -2.0f * gain)) < 0.0f;
  return better ? ScaleStep{rounded, step} : ScaleStep{scale, 0.0f};
}

}  // namespace gptq::cuda
