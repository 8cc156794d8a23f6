#pragma once

#include "kernels/cuda/cuda_context.h"
#include "kernels/kernels.h"

namespace gptq::cuda {

/// Kernels on one GPU, all in the context's compute stream. Library products are cuBLASLt's, with a workspace
/// of fixed size and no atomics: the same shapes give the same bits on GPUs of one kind.
class CudaKernels final : public Kernels {
 public:
  explicit CudaKernels(CudaContext& context) : context_(context) {}

  // linear.cu
  std::unique_ptr<LinearWeights> prepare_linear(const Matrix& weight, std::span<const float> bias,
                                                DType compute) override;
  std::unique_ptr<LinearWeights> prepare_quantized(const QuantizedWeights& weights,
                                                   std::span<const float> bias, DType compute) override;
  void linear(const Batch& batch, const Matrix& x, const LinearWeights& weights, const Matrix& y,
              bool accumulate) override;
  // embed.cu
  void embed(std::span<const std::int32_t> ids, const Matrix& table, const Matrix& out) override;
  // rms_norm.cu
  void rms_norm(const Matrix& x, std::span<const float> weight, float eps, float weight_offset,
                const Matrix& y) override;
  void head_rms_norm(const Matrix& x, std::span<const float> weight, float eps, float weight_offset) override;
  // layer_norm.cu
  void layer_norm(const Matrix& x, std::int64_t features, std::span<const float> weight,
                  std::span<const float> bias, float eps, const Matrix& y) override;
  // rotary.cu
  void rotary(const Batch& batch, const Matrix& x, std::int64_t head_dim, const RotaryTable& table) override;
  // attention.cu
  void attention(const Batch& batch, const AttentionShape& shape, const Matrix& q, const Matrix& k,
                 const Matrix& v, const Matrix& out) override;
  // gated_activation.cu
  void gated_activation(Activation activation, const Matrix& gate, const Matrix& up,
                        const Matrix& out) override;
  // activation.cu
  void activation(Activation kind, const Matrix& x, const Matrix& y) override;
  // copy_heads.cu
  void copy_heads(const Matrix& x, HeadPattern from, const Matrix& y, HeadPattern to,
                  std::int64_t heads) override;
  // convert.cu
  void convert(const Matrix& x, const Matrix& y) override;
  // add_scaled.cu
  void add_scaled(const Matrix& y, float factor, const Matrix& hidden) override;
  void scale(const Matrix& x, float factor) override;
  // add_positions.cu
  void add_positions(const Batch& batch, const Matrix& table, std::int64_t first,
                     const Matrix& hidden) override;
  // cross_entropy.cu
  void cross_entropy(const Batch& batch, const Matrix& x, const LinearWeights& head,
                     std::span<const std::int32_t> targets, std::span<double> losses,
                     const LogitForm& form) override;
  // finite.cu
  bool all_finite(const Matrix& x) override;
  // hessian.cu
  void column_max(const Matrix& x, float* maximum) override;
  std::vector<PanelRange> hessian_ranges(std::int64_t n) const override;
  void accumulate_hessian(const Matrix& x, std::span<const int> exponents, PanelRange range,
                          std::int64_t* sum) override;
  // factor.cu
  void hessian_diagonal(const std::int64_t* sum, std::span<const int> exponents, double scale,
                        std::span<double> diagonal) override;
  bool factor(const FactorInput& input, float* r) override;
  // solve_rows.cu
  std::vector<QuantizedRows> solve_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns,
                                        const float* r, double damping, const SolveOptions& options) override;
  // subtract.cu
  void subtract(const Matrix& a, const Matrix& b, std::span<const float> bias, const Matrix& y) override;
  // weigh_rows.cu
  void weigh_rows(const Matrix& hidden, float eps, const Matrix& x, const Matrix& y) override;
  // squared_error.cu
  void squared_error(const Batch& batch, const Matrix& a, const Matrix& b, std::span<double> error,
                     std::span<double> norm) override;
  // accumulate_cross.cu
  void accumulate_cross(const Matrix& d, std::span<const int> d_exponents, const Matrix& x,
                        std::span<const int> exponents, std::int64_t* sum) override;
  // expand.cu
  void expand_hessian(const FactorInput& input, float* h) override;
  void expand_cross(const FactorInput& input, const std::int64_t* cross, std::span<const int> d_exponents,
                    float* m) override;
  void expand_wanted(const FactorInput& input, const std::int64_t* cross, std::int64_t rows,
                     std::span<const int> d_exponents, float* wanted) override;
  // correct_rows.cu
  std::vector<HostTensor> correct_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns,
                                       const float* m, const float* r, double alpha) override;
  // refine_rows.cu
  void refine_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns, const float* h,
                   const SolveOptions& options, const RefineOptions& refine,
                   std::span<QuantizedRows> rows) override;

 private:
  CudaContext& context_;
};

}  // namespace gptq::cuda
