#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "model/architectures.h"

/// Random weights that behave like a trained model's where quantization looks: activations of order one in
/// every block, a few channels much larger than the rest, columns that vary together, token probabilities
/// that are neither flat nor a guess. Every number is a function of seed, tensor name and index, made of
/// integer arithmetic and correctly rounded float operations: the bytes depend on nothing else.
namespace gptq::synthetic {

/// One tensor of the model, and how its numbers are drawn. The element of row r and column c is
///
///     offset + row(r) · column(c) · (scale · z(r, c) + common · (a₁(r) b₁(c) + a₂(r) b₂(c))) + echo · z'(r,
///     c)
///
/// with z a sum of four uniform numbers of mean 0 and variance 1 (nearly normal), z' that of another tensor,
/// a and b likewise but one a row and one a column, and row() and column() near one except for the outliers.
struct TensorRecipe {
  std::string name;
  std::vector<std::int64_t> shape;  ///< (rows, columns) or (columns)
  float offset = 0;
  float scale = 1;
  float common = 0;
  float row_outlier = 1;     ///< one row in 32 is so many times larger
  float column_outlier = 1;  ///< one column in 64
  float echo = 0;
  std::string echo_of = {};  ///< the name whose numbers z' are
};

/// All tensors of a model in the order of the files. Every scale follows from the config: products have the
/// variance of their input, and what a block adds to the residual stream is 1/sqrt(2·blocks) of the
/// embedding.
std::vector<TensorRecipe> model_recipe(const Architecture& architecture, const ModelConfig& config);

/// Elements [first, first + count) of a tensor, row-major, as bytes of the type (f32, f16 or bf16).
class TensorSource {
 public:
  TensorSource(const TensorRecipe& recipe, std::uint64_t seed);
  void fill(DType dtype, std::int64_t first, std::int64_t count, std::byte* out) const;

 private:
  template <typename T, typename Convert>
  void fill_as(Convert convert, std::int64_t first, std::int64_t count, T* out) const;
  float row_factor(std::int64_t row) const;

  TensorRecipe recipe_;
  std::int64_t columns_;
  std::uint64_t key_, row_key_, echo_key_;
  std::vector<float> column_scale_, first_pattern_, second_pattern_;  ///< a column
};

}  // namespace gptq::synthetic
