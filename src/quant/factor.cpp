#include "quant/factor.h"

#include <cmath>
#include <limits>

#include "base/error.h"
#include "quant/byte_stream.h"

namespace gptq {
namespace {

std::vector<double> diagonal_of(const std::vector<double>& hessian, std::int64_t n) {
  std::vector<double> diagonal(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    diagonal[static_cast<std::size_t>(i)] = hessian[static_cast<std::size_t>(i * n + i)];
  return diagonal;
}

void require_finite(const std::vector<double>& hessian) {
  // One infinity or NaN makes the sum of magnitudes infinite or NaN; finite doubles from f32 sums cannot
  // reach it.
  double sum = 0;
  for (const double value : hessian) sum += std::abs(value);
  if (!std::isfinite(sum))
    throw NumericalError(
        "a Hessian holds NaN or infinity: the calibration activations overflowed; "
        "try compute.dtype: fp32, or check the model's weights");
}

/// Mean over the columns that some token used: the others would only dilute it.
double mean_of_live(const std::vector<double>& diagonal) {
  double sum = 0;
  std::int64_t live = 0;
  for (const double value : diagonal) {
    sum += value;
    live += value > 0;
  }
  return live == 0 ? 0 : sum / static_cast<double>(live);
}

/// H in visiting order with λ added to the diagonal; a dead column's diagonal is 1.
std::vector<double> damped(const std::vector<double>& hessian, const SolveColumns& columns, double lambda) {
  const auto n = static_cast<std::size_t>(columns.n);
  std::vector<double> result(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto source = static_cast<std::size_t>(columns.order[i]);
    const double* row = hessian.data() + source * n;
    for (std::size_t j = 0; j < n; ++j) result[i * n + j] = row[columns.order[j]];
    result[i * n + i] = (columns.dead[source] ? 1.0 : result[i * n + i]) + lambda;
  }
  return result;
}

/// Rounds R to float. False if a diagonal entry is no normal float any more: its inverse would be infinite.
bool narrow(const std::vector<double>& r, std::int64_t n, std::vector<float>& result) {
  result.resize(r.size());
  for (std::size_t k = 0; k < r.size(); ++k) result[k] = static_cast<float>(r[k]);
  for (std::int64_t i = 0; i < n; ++i) {
    const float pivot = result[static_cast<std::size_t>(i * n + i)];
    if (!(pivot >= std::numeric_limits<float>::min() && pivot <= std::numeric_limits<float>::max()))
      return false;
  }
  return true;
}

}  // namespace

StageFactor factor_hessian(Kernels& kernels, std::vector<double> hessian, std::int64_t n,
                           const QuantizationSection& options) {
  GPTQ_EXPECT(static_cast<std::int64_t>(hessian.size()) == n * n);
  require_finite(hessian);
  const std::vector<double> diagonal = diagonal_of(hessian, n);
  const double mean = mean_of_live(diagonal);

  StageFactor factor;
  factor.columns = arrange_columns(diagonal, options);
  for (std::int64_t step = 0;; ++step) {
    const double percent = options.damp_percent + static_cast<double>(step) * options.damp_auto_increment;
    if (step > 0 && (!(options.damp_auto_increment > 0) || percent >= 1)) break;
    factor.damping_steps = step;
    factor.damp_percent = percent;
    factor.damping = percent * mean;
    std::vector<double> r = damped(hessian, factor.columns, factor.damping);
    if (kernels.factor(r, n) && narrow(r, n, factor.r)) return factor;
  }
  factor.r.clear();
  factor.damping = 0;
  factor.fallback = true;
  return factor;
}

std::vector<std::byte> serialize(const StageFactor& factor) {
  ByteWriter writer;
  writer.value(factor.columns.n);
  writer.value(factor.columns.groups);
  writer.vector(factor.columns.order);
  writer.vector(factor.columns.group_of);
  writer.vector(factor.columns.weight);
  writer.vector(factor.columns.dead);
  writer.vector(factor.r);
  writer.value(factor.damping);
  writer.value(factor.damp_percent);
  writer.value(factor.damping_steps);
  writer.value(static_cast<std::uint8_t>(factor.fallback));
  return writer.take();
}

StageFactor deserialize_factor(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  StageFactor factor;
  factor.columns.n = reader.value<std::int64_t>();
  factor.columns.groups = reader.value<std::int64_t>();
  factor.columns.order = reader.vector<std::int32_t>();
  factor.columns.group_of = reader.vector<std::int32_t>();
  factor.columns.weight = reader.vector<float>();
  factor.columns.dead = reader.vector<std::uint8_t>();
  factor.r = reader.vector<float>();
  factor.damping = reader.value<double>();
  factor.damp_percent = reader.value<double>();
  factor.damping_steps = reader.value<std::int64_t>();
  factor.fallback = reader.value<std::uint8_t>() != 0;
  reader.expect_end();
  return factor;
}

}  // namespace gptq
