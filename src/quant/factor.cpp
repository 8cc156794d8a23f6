#include "quant/factor.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "quant/byte_stream.h"

namespace gptq {
namespace {

/// Mean over the columns that some token used: the others would only dilute it.
double mean_of_live(const std::vector<double>& diagonal) {
  double sum = 0;
  std::int64_t live = 0;
  for (const double value : diagonal) {
    sum += value;
    live += value > 0;
  }
  if (!std::isfinite(sum))
    throw NumericalError(
        "a Hessian holds NaN or infinity: the calibration activations overflowed; "
        "try compute.dtype: fp32, or check the model's weights");
  return live == 0 ? 0 : sum / static_cast<double>(live);
}

}  // namespace

std::size_t factor_bytes(std::int64_t n) {
  return static_cast<std::size_t>(n) * static_cast<std::size_t>(n) * sizeof(float);
}

StageFactor factor_hessian(Backend& backend, const HessianSum& sum, const QuantizationSection& options) {
  std::vector<double> diagonal(static_cast<std::size_t>(sum.n));
  backend.kernels().hessian_diagonal(sum.values(), sum.exponents, sum.scale(), diagonal);
  const double mean = mean_of_live(diagonal);

  StageFactor factor;
  factor.columns = arrange_columns(diagonal, options);
  factor.r = backend.allocate(factor_bytes(sum.n));
  FactorInput input{
      sum.n, sum.values(), sum.exponents, sum.scale(), factor.columns.order, factor.columns.dead, 0};
  for (std::int64_t step = 0;; ++step) {
    const double percent = options.damp_percent + static_cast<double>(step) * options.damp_auto_increment;
    if (step > 0 && (!(options.damp_auto_increment > 0) || percent >= 1)) break;
    factor.damping_steps = step;
    factor.damp_percent = percent;
    factor.damping = input.damping = percent * mean;
    if (backend.kernels().factor(input, factor.r.as<float>())) return factor;
  }
  factor.r = DeviceBuffer();
  factor.damping = 0;
  factor.fallback = true;
  return factor;
}

namespace {

FactorInput undamped(const HessianSum& sum, const StageFactor& factor) {
  return {sum.n, sum.values(), sum.exponents, sum.scale(), factor.columns.order, factor.columns.dead, 0};
}

}  // namespace

void expand_hessian(Backend& backend, const HessianSum& sum, StageFactor& factor) {
  factor.hessian = backend.allocate(factor_bytes(sum.n));
  backend.kernels().expand_hessian(undamped(sum, factor), factor.hessian.as<float>());
}

void expand_cross(Backend& backend, const HessianSum& sum, const CrossSum& cross, StageFactor& factor) {
  GPTQ_EXPECT(cross.n == sum.n && cross.tokens == sum.tokens);
  const FactorInput input = undamped(sum, factor);
  factor.cross = backend.allocate(static_cast<std::size_t>(cross.rows * cross.n) * sizeof(float));
  auto* const values = factor.cross.as<float>();
  if (cross.target == CorrectionTarget::residual) {
    backend.kernels().expand_wanted(input, cross.values(), cross.rows, cross.d_exponents, values);
  } else {
    backend.kernels().expand_cross(input, cross.values(), cross.d_exponents, values);
  }
}

std::vector<std::byte> serialize(const StageFactor& factor) {
  ByteWriter writer;
  writer.value(factor.columns.n);
  writer.value(factor.columns.groups);
  writer.vector(factor.columns.order);
  writer.vector(factor.columns.group_of);
  writer.vector(factor.columns.weight);
  writer.vector(factor.columns.dead);
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
  factor.damping = reader.value<double>();
  factor.damp_percent = reader.value<double>();
  factor.damping_steps = reader.value<std::int64_t>();
  factor.fallback = reader.value<std::uint8_t>() != 0;
  reader.expect_end();
  return factor;
}

}  // namespace gptq
