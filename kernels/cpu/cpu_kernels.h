#pragma once

#include "kernels/kernels.h"

namespace gptq {

/// Kernels on the cores of this process; "backend memory" is host memory. Every library product runs on one
/// thread inside our own parallel loops over fixed tiles, which keeps the bits independent of the number of
/// threads. One call at a time: an object may be used by several threads, but not at once.
class CpuKernels final : public Kernels {
 public:
  /// threads >= 1. Sets this thread's OpenMP team size to 1 (see gemm.h), which every loop here overrides.
  explicit CpuKernels(int threads);

  std::unique_ptr<LinearWeights> prepare_linear(const Matrix& weight, std::span<const float> bias,
                                                DType compute) override;
  std::unique_ptr<LinearWeights> prepare_quantized(const QuantizedWeights& weights,
                                                   std::span<const float> bias, DType compute) override;
  void linear(const Batch& batch, const Matrix& x, const LinearWeights& weights, const Matrix& y,
              bool accumulate) override;
  void embed(std::span<const std::int32_t> ids, const Matrix& table, const Matrix& out) override;
  void rms_norm(const Matrix& x, std::span<const float> weight, float eps, float weight_offset,
                const Matrix& y) override;
  void head_rms_norm(const Matrix& x, std::span<const float> weight, float eps, float weight_offset) override;
  void layer_norm(const Matrix& x, std::int64_t features, std::span<const float> weight,
                  std::span<const float> bias, float eps, const Matrix& y) override;
  void rotary(const Batch& batch, const Matrix& x, std::int64_t head_dim, const RotaryTable& table) override;
  void attention(const Batch& batch, const AttentionShape& shape, const Matrix& q, const Matrix& k,
                 const Matrix& v, const Matrix& out) override;
  void gated_activation(Activation activation, const Matrix& gate, const Matrix& up,
                        const Matrix& out) override;
  void activation(Activation kind, const Matrix& x, const Matrix& y) override;
  void copy_heads(const Matrix& x, HeadPattern from, const Matrix& y, HeadPattern to,
                  std::int64_t heads) override;
  void convert(const Matrix& x, const Matrix& y) override;
  void add_scaled(const Matrix& y, float factor, const Matrix& hidden) override;
  void scale(const Matrix& x, float factor) override;
  void add_positions(const Batch& batch, const Matrix& table, std::int64_t first,
                     const Matrix& hidden) override;
  void cross_entropy(const Batch& batch, const Matrix& x, const LinearWeights& head,
                     std::span<const std::int32_t> targets, std::span<double> losses,
                     const LogitForm& form) override;
  bool all_finite(const Matrix& x) override;

  void column_max(const Matrix& x, float* maximum) override;
  void accumulate_hessian(const Matrix& x, std::span<const int> exponents, PanelRange range,
                          std::int64_t* sum) override;

  void hessian_diagonal(const std::int64_t* sum, std::span<const int> exponents, double scale,
                        std::span<double> diagonal) override;
  bool factor(const FactorInput& input, float* r) override;
  std::vector<QuantizedRows> solve_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns,
                                        const float* r, double damping, const SolveOptions& options) override;

  void weigh_rows(const Matrix& hidden, float eps, const Matrix& x, const Matrix& y) override;
  void subtract(const Matrix& a, const Matrix& b, std::span<const float> bias, const Matrix& y) override;
  void squared_error(const Batch& batch, const Matrix& a, const Matrix& b, std::span<double> error,
                     std::span<double> norm) override;
  void accumulate_cross(const Matrix& d, std::span<const int> d_exponents, const Matrix& x,
                        std::span<const int> exponents, std::int64_t* sum) override;
  void expand_hessian(const FactorInput& input, float* h) override;
  void expand_cross(const FactorInput& input, const std::int64_t* cross, std::span<const int> d_exponents,
                    float* m) override;
  void expand_wanted(const FactorInput& input, const std::int64_t* cross, std::int64_t rows,
                     std::span<const int> d_exponents, float* wanted) override;
  std::vector<HostTensor> correct_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns,
                                       const float* m, const float* r, double alpha) override;
  void refine_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns, const float* h,
                   const SolveOptions& options, const RefineOptions& refine,
                   std::span<QuantizedRows> rows) override;

  int threads() const { return threads_; }

 private:
  int threads_;
};

}  // namespace gptq
