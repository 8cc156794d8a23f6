#pragma once

#include <cstdint>

/// Element-wise and row-wise inner loops of the forward pass. bf16 elements are uint16_t here.
namespace gptq {

struct RowTable {
  using u16 = std::uint16_t;
  using index = std::int64_t;

  /// y[i] = x[i] / sqrt(mean(x²) + eps) * weight[i]; y may be x.
  void (*norm_f32)(const float* x, const float* weight, float eps, index n, float* y);
  void (*norm_f32_bf16)(const float* x, const float* weight, float eps, index n, u16* y);
  void (*norm_bf16)(const u16* x, const float* weight, float eps, index n, u16* y);

  /// y[i] = (x[i] − mean) / sqrt(variance + eps) * weight[i] + bias[i]; y may be x.
  void (*center_f32)(const float* x, const float* weight, const float* bias, float eps, index n, float* y);
  void (*center_f32_bf16)(const float* x, const float* weight, const float* bias, float eps, index n, u16* y);
  void (*center_bf16)(const u16* x, const float* weight, const float* bias, float eps, index n, u16* y);

  /// (x[i], x[half+i]) turned by the angle of cos[i], sin[i], for i < half.
  void (*rotate_f32)(float* x, const float* cos, const float* sin, index half);
  void (*rotate_bf16)(u16* x, const float* cos, const float* sin, index half);

  /// out = activation(gate) * up; activation is the value of enum Activation.
  void (*gate_f32)(int activation, const float* gate, const float* up, float* out, index n);
  void (*gate_bf16)(int activation, const u16* gate, const u16* up, u16* out, index n);

  /// y = activation(x); y may be x.
  void (*activate_f32)(int activation, const float* x, float* y, index n);
  void (*activate_bf16)(int activation, const u16* x, u16* y, index n);

  /// The largest bits of |x[i]| as f32: they order like the numbers, and NaN lies above infinity.
  std::uint32_t (*top_bits_f32)(const float* x, index n);
  std::uint32_t (*top_bits_bf16)(const u16* x, index n);

  void (*to_bf16)(const float* x, u16* y, index n);
  void (*to_f32)(const u16* x, float* y, index n);
  void (*add_f32)(const float* x, float* y, index n);              ///< y += x
  void (*add_bf16)(const u16* x, u16* y, index n);                 ///< y += x, rounded once
  void (*scale_f32)(const float* x, float by, float* y, index n);  ///< y = x · by
  void (*scale_bf16)(const float* x, float by, u16* y, index n);
  void (*rescale_bf16)(const u16* x, float by, u16* y, index n);

  void (*add_scaled)(const float* x, float by, float* y, index n);  ///< y += x · by

  float (*sum_of_squares)(const float* x, index n);
  /// error += Σ (a[i] − b[i])², norm += Σ a[i]²
  void (*add_squared_error)(const float* a, const float* b, index n, double* error, double* norm);
};

const RowTable& row_table();  ///< this machine's

}  // namespace gptq
