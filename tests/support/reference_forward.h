#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "kernels/kernels.h"
#include "model/rotary.h"

/// The forward kernels in the most obvious way, in double: the oracle of the kernel suites.
namespace gptq::reference {

/// A dense row-major matrix of doubles.
struct Array {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> values;

  Array(std::int64_t row_count, std::int64_t col_count)
      : rows(row_count), cols(col_count), values(static_cast<std::size_t>(row_count * col_count)) {}
  double& at(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * cols + c)]; }
  double at(std::int64_t r, std::int64_t c) const { return values[static_cast<std::size_t>(r * cols + c)]; }
};

/// Normal numbers that `dtype` holds exactly; the same for the same seed.
Array random_array(std::int64_t rows, std::int64_t cols, DType dtype, unsigned seed, double scale = 1.0);
HostTensor to_tensor(const Array& array, DType dtype);
Array from_matrix(const Matrix& matrix);
std::vector<float> to_floats(const Array& array);
/// max |a - b| / (1 + |b|)
double largest_difference(const Array& a, const Array& b);

Array linear(const Array& x, const Array& weight, const std::vector<float>& bias);  ///< x·Wᵀ + b
Array rms_norm(const Array& x, const std::vector<float>& weight, double eps,
               double offset);  ///< by weight.size()
/// Each run of `features` columns centred and scaled; weight, bias: by their size, the same for all runs or
/// not.
Array layer_norm(const Array& x, std::int64_t features, const std::vector<float>& weight,
                 const std::vector<float>& bias, double eps);
Array activation(Activation kind, const Array& x);
Array rotary(const Batch& batch, const Array& x, std::int64_t head_dim, const RotaryAngles& angles);
/// key_bias: (heads, shape.key_bias_positions) in host memory, or empty.
Array attention(const Batch& batch, const AttentionShape& shape, const Array& q, const Array& k,
                const Array& v, const std::vector<float>& key_bias = {});
Array gated_activation(Activation activation, const Array& gate, const Array& up);
std::vector<double> cross_entropy(const Array& logits, const std::vector<std::int32_t>& targets,
                                  const LogitForm& form = {});

}  // namespace gptq::reference
