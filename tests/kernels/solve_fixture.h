#pragma once

#include <memory>
#include <random>
#include <string>

#include "backend/backend.h"
#include "quant/factor.h"
#include "quant/recipe.h"
#include "support/reference_quant.h"
#include "support/test_backend.h"

/// Random layers and a short way through factor and solve.
namespace gptq::solve_test {

struct Layer {
  reference::Dense weight;   ///< (rows, n), values representable in float
  reference::Dense hessian;  ///< (n, n)
};

/// Correlated inputs with a wide spread of magnitudes; tokens = 2n.
inline Layer make_layer(std::int64_t rows, std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Layer layer{reference::Dense(rows, n), {}};
  for (double& w : layer.weight.values) w = static_cast<float>(0.05 * normal(generator));
  reference::Dense x(2 * n, n);
  std::vector<double> spread(static_cast<std::size_t>(n));
  for (double& s : spread) s = std::exp(normal(generator));
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const double common = normal(generator);
    for (std::int64_t c = 0; c < n; ++c)
      x.at(t, c) = (normal(generator) + 0.7 * common) * spread[static_cast<std::size_t>(c)];
  }
  layer.hessian = reference::hessian(x);
  return layer;
}

inline HostTensor as_tensor(const reference::Dense& dense) {
  HostTensor tensor = make_tensor(DType::f32, {dense.rows, dense.cols});
  std::copy(dense.values.begin(), dense.values.end(), reinterpret_cast<float*>(tensor.storage.data()));
  return tensor;
}

inline StageFactor factor(Backend& backend, const Layer& layer, const QuantizationSection& section) {
  const std::int64_t n = layer.weight.cols;
  return factor_hessian(backend, test::hessian_sum_from(backend, layer.hessian.values, n), section);
}

/// The parts' rows with what factor() gave.
inline std::vector<QuantizedRows> solve_parts(Backend& backend, std::span<const RowsToSolve> parts,
                                              const StageFactor& factor, const QuantizationSection& section) {
  return backend.kernels().solve_rows(parts, factor.columns, factor.factor(), factor.damping,
                                      solve_options(section));
}

/// Rows [first, first + count) of the layer.
inline QuantizedRows solve_rows(Backend& backend, const Layer& layer, const StageFactor& factor,
                                const QuantizationSection& section, std::int64_t first, std::int64_t count) {
  const HostTensor weight = as_tensor(layer.weight);
  const RowsToSolve part{weight.matrix().rows_from(first, count)};
  return solve_parts(backend, {&part, 1}, factor, section)[0];
}

inline QuantizedRows round_to_nearest(Backend& backend, const Layer& layer, const SolveColumns& columns,
                                      const QuantizationSection& section) {
  const HostTensor weight = as_tensor(layer.weight);
  const RowsToSolve part{weight.matrix()};
  return backend.kernels().solve_rows({&part, 1}, columns, nullptr, 0, solve_options(section))[0];
}

struct Solved {
  StageFactor factor;
  QuantizedRows rows;
};
inline Solved solve(Backend& backend, const Layer& layer, const QuantizationSection& section) {
  Solved solved;
  solved.factor = factor(backend, layer, section);
  solved.rows = solve_rows(backend, layer, solved.factor, section, 0, layer.weight.rows);
  return solved;
}

/// W - Q, taken from the codes, scales and zeros as a loader would see them.
inline reference::Dense difference(const Layer& layer, const SolveColumns& columns,
                                   const QuantizedRows& rows) {
  reference::Dense d = layer.weight;
  for (std::int64_t row = 0; row < d.rows; ++row) {
    for (std::int64_t c = 0; c < d.cols; ++c) {
      const auto place =
          static_cast<std::size_t>(row * columns.groups + columns.group_of[static_cast<std::size_t>(c)]);
      const int code = rows.codes[static_cast<std::size_t>(row * d.cols + c)];
      d.at(row, c) -= static_cast<double>(to_float(rows.scales[place])) * (code - rows.zeros[place]);
    }
  }
  return d;
}

inline bool same_bits(const QuantizedRows& a, const QuantizedRows& b) {
  const auto same_scales = [&] {
    for (std::size_t k = 0; k < a.scales.size() && k < b.scales.size(); ++k)
      if (a.scales[k].bits != b.scales[k].bits) return false;
    return a.scales.size() == b.scales.size();
  };
  return a.rows == b.rows && a.codes == b.codes && a.zeros == b.zeros && same_scales() &&
         a.solve_loss == b.solve_loss && a.solve_error == b.solve_error && a.output_error == b.output_error &&
         a.output_norm == b.output_norm && a.weight_error == b.weight_error && a.weight_norm == b.weight_norm;
}

/// Rows [first, first + count) of `rows`, as one object.
inline QuantizedRows slice(const QuantizedRows& rows, const SolveColumns& columns, std::int64_t first,
                           std::int64_t count) {
  const auto cut = [&](const auto& values, std::int64_t width) {
    const auto begin = values.begin() + first * width;
    return std::decay_t<decltype(values)>(begin, begin + count * width);
  };
  return {count,
          cut(rows.codes, columns.n),
          cut(rows.scales, columns.groups),
          cut(rows.zeros, columns.groups),
          cut(rows.solve_loss, 1),
          cut(rows.solve_error, 1),
          cut(rows.output_error, 1),
          cut(rows.output_norm, 1),
          cut(rows.weight_error, 1),
          cut(rows.weight_norm, 1)};
}

struct OrderMode {
  const char* name;
  bool desc_act, act_group_aware, static_groups;
};
inline constexpr OrderMode kOrderModes[] = {{"natural", false, false, false},
                                            {"desc_act", true, false, false},
                                            {"group_aware", false, true, false},
                                            {"static_groups", false, false, true},
                                            {"static_desc_act", true, false, true}};

inline QuantizationSection section_of(int bits, std::int64_t group_size, bool sym, const OrderMode& mode,
                                      const std::string& search) {
  QuantizationSection section;
  section.bits = bits;
  section.group_size = group_size;
  section.sym = sym;
  section.desc_act = mode.desc_act;
  section.act_group_aware = mode.act_group_aware;
  section.static_groups = mode.static_groups;
  section.scale_search = search;
  return section;
}

/// One of every kind, for laws that hold for all.
inline std::vector<QuantizationSection> unlike_sections() {
  return {section_of(4, 128, true, kOrderModes[2], "weighted"),
          section_of(4, 64, false, kOrderModes[1], "weighted"),
          section_of(3, 150, false, kOrderModes[0], "mse"), section_of(4, -1, true, kOrderModes[3], "minmax"),
          section_of(2, 32, true, kOrderModes[4], "weighted")};
}

}  // namespace gptq::solve_test
