#pragma once

#include <memory>
#include <random>
#include <string>

#include "backend/backend.h"
#include "quant/factor.h"
#include "quant/recipe.h"
#include "support/reference_quant.h"

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

inline std::vector<float> as_floats(const reference::Dense& dense) {
  return {dense.values.begin(), dense.values.end()};
}

struct Solved {
  StageFactor factor;
  QuantizedRows rows;
};

/// Rows [first, first + count) of the layer.
inline Solved solve(Backend& backend, const Layer& layer, const QuantizationSection& section,
                    std::int64_t first = 0, std::int64_t count = -1) {
  const std::int64_t n = layer.weight.cols;
  Solved solved;
  solved.factor = factor_hessian(backend.kernels(), layer.hessian.values, n, section);
  std::vector<float> w = as_floats(layer.weight);
  const Matrix all{w.data(), DType::f32, layer.weight.rows, n, n};
  const Matrix part = all.rows_from(first, count < 0 ? layer.weight.rows - first : count);
  solved.rows = backend.kernels().solve_rows(part, solved.factor.columns, solved.factor.r,
                                             solved.factor.damping, Recipe(section).solve_options());
  return solved;
}

/// W - Q, taken from the codes, scales and zeros as a loader would see them.
inline reference::Dense difference(const Layer& layer, const Solved& solved) {
  const SolveColumns& columns = solved.factor.columns;
  reference::Dense d = layer.weight;
  for (std::int64_t row = 0; row < d.rows; ++row) {
    for (std::int64_t c = 0; c < d.cols; ++c) {
      const auto place =
          static_cast<std::size_t>(row * columns.groups + columns.group_of[static_cast<std::size_t>(c)]);
      const int code = solved.rows.codes[static_cast<std::size_t>(row * d.cols + c)];
      d.at(row, c) -=
          static_cast<double>(to_float(solved.rows.scales[place])) * (code - solved.rows.zeros[place]);
    }
  }
  return d;
}

inline bool same_bits(const QuantizedRows& a, const QuantizedRows& b) {
  const auto same_scales = [&] {
    for (std::size_t k = 0; k < a.scales.size(); ++k)
      if (a.scales[k].bits != b.scales[k].bits) return false;
    return a.scales.size() == b.scales.size();
  };
  return a.codes == b.codes && a.zeros == b.zeros && same_scales() && a.solve_loss == b.solve_loss &&
         a.output_error == b.output_error && a.output_norm == b.output_norm &&
         a.weight_error == b.weight_error && a.weight_norm == b.weight_norm;
}

inline std::unique_ptr<Backend> backend(int threads) {
  return make_backend({"cpu", threads});
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

}  // namespace gptq::solve_test
