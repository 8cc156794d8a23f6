#include "support/reference_quant.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

namespace gptq::reference {
namespace {

struct Scale {
  double step = 1;
  int zero = 0;
};

double as_half(double x) {
  const double half = to_float(to_f16(static_cast<float>(std::min(x, 65504.0))));
  return std::max(half, std::ldexp(1.0, -24));
}

double round_even(double x) {
  return std::nearbyint(x);
}

int code_of(double v, const Scale& scale, int max_code) {
  return static_cast<int>(
      std::clamp(round_even(v / scale.step) + scale.zero, 0.0, static_cast<double>(max_code)));
}

double value_of(int code, const Scale& scale) {
  return scale.step * (code - scale.zero);
}

Scale scale_of_range(double low, double high, int max_code, const QuantizationSection& options, bool second) {
  const double step = as_half((high - low) / max_code);
  if (options.sym) return {step, (max_code + 1) / 2};
  double whole = round_even(-low / step);
  if (second) whole += -low / step > whole ? 1 : -1;
  const int zero = static_cast<int>(std::min<double>(whole, max_code));
  if (zero < 1) return {as_half(high / (max_code - 1)), 1};
  return {step, zero};
}

Scale find_scale(const std::vector<double>& values, const std::vector<double>& weights, int max_code,
                 const QuantizationSection& options) {
  double low = 0, high = 0;
  for (const double v : values) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  if (options.sym) {
    high = std::max(high, -low);
    low = -high;
  }
  if (options.scale_search == "minmax") return scale_of_range(low, high, max_code, options, false);
  Scale best;
  double best_error = 0;
  for (int i = 0; i < options.max_shrink * options.mse_grid; ++i) {
    const double p = 1 - static_cast<double>(i) / options.mse_grid;
    for (const bool second : {false, true}) {
      if (second && (options.sym || max_code != 3)) continue;
      const Scale scale = scale_of_range(p * low, p * high, max_code, options, second);
      double error = 0;
      for (std::size_t k = 0; k < values.size(); ++k) {
        const double q = value_of(code_of(values[k], scale, max_code), scale);
        error += weights[k] * std::pow(std::abs(q - values[k]), options.mse_norm);
      }
      if ((i == 0 && !second) || error < best_error) {
        best = scale;
        best_error = error;
      }
    }
  }
  return best;
}

/// Lower L with A = L Lᵀ.
Dense cholesky(const Dense& a) {
  Dense l(a.rows, a.rows);
  for (std::int64_t j = 0; j < a.rows; ++j) {
    for (std::int64_t i = j; i < a.rows; ++i) {
      double sum = a.at(i, j);
      for (std::int64_t k = 0; k < j; ++k) sum -= l.at(i, k) * l.at(j, k);
      if (i == j && !(sum > 0)) throw std::runtime_error("reference: not positive definite");
      l.at(i, j) = i == j ? std::sqrt(sum) : sum / l.at(j, j);
    }
  }
  return l;
}

/// A⁻¹ by solving L Lᵀ x = e for each unit vector.
Dense inverse(const Dense& a) {
  const Dense l = cholesky(a);
  const std::int64_t n = a.rows;
  Dense result(n, n);
  for (std::int64_t c = 0; c < n; ++c) {
    std::vector<double> x(static_cast<std::size_t>(n), 0.0);
    x[static_cast<std::size_t>(c)] = 1;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t k = 0; k < i; ++k)
        x[static_cast<std::size_t>(i)] -= l.at(i, k) * x[static_cast<std::size_t>(k)];
      x[static_cast<std::size_t>(i)] /= l.at(i, i);
    }
    for (std::int64_t i = n - 1; i >= 0; --i) {
      for (std::int64_t k = i + 1; k < n; ++k)
        x[static_cast<std::size_t>(i)] -= l.at(k, i) * x[static_cast<std::size_t>(k)];
      x[static_cast<std::size_t>(i)] /= l.at(i, i);
    }
    for (std::int64_t i = 0; i < n; ++i) result.at(i, c) = x[static_cast<std::size_t>(i)];
  }
  return result;
}

std::vector<double> diagonal_of(const Dense& h) {
  std::vector<double> diagonal;
  for (std::int64_t i = 0; i < h.rows; ++i) diagonal.push_back(h.at(i, i));
  return diagonal;
}

/// The group's columns that are visited at or after p (all of them where scales come from the original
/// weights).
std::vector<std::int64_t> columns_of_group(const Order& order, std::int64_t group) {
  std::vector<std::int64_t> columns;
  for (const std::int64_t column : order.visit)
    if (order.group_of[static_cast<std::size_t>(column)] == group) columns.push_back(column);
  return columns;
}

/// The whole algorithm; `u` (visiting order) null for round to nearest.
Result run(Dense w, const std::vector<double>& diagonal, const Dense* u, Order order,
           const QuantizationSection& options, int levels) {
  const std::int64_t n = w.cols;
  const int max_code = levels - 1;
  const Dense original = w;
  Result result;
  result.order = std::move(order);
  const Order& o = result.order;
  result.codes.resize(w.values.size());
  result.scales.resize(static_cast<std::size_t>(w.rows * o.groups));
  result.zeros.resize(result.scales.size());
  result.quantized = Dense(w.rows, n);
  for (std::int64_t row = 0; row < w.rows; ++row) {
    std::vector<bool> known(static_cast<std::size_t>(o.groups), false);
    std::vector<Scale> scales(static_cast<std::size_t>(o.groups));
    for (std::int64_t p = 0; p < n; ++p) {
      const std::int64_t column = o.visit[static_cast<std::size_t>(p)];
      const auto group = static_cast<std::size_t>(o.group_of[static_cast<std::size_t>(column)]);
      if (!known[group]) {
        std::vector<double> values, weights;
        for (const std::int64_t c : columns_of_group(o, static_cast<std::int64_t>(group))) {
          values.push_back(options.static_groups ? original.at(row, c) : w.at(row, c));
          weights.push_back(options.scale_search == "weighted" ? diagonal[static_cast<std::size_t>(c)] : 1.0);
        }
        if (std::all_of(weights.begin(), weights.end(), [](double h) { return h == 0; }))
          weights.assign(weights.size(), 1.0);
        scales[group] = find_scale(values, weights, max_code, options);
        known[group] = true;
        result.scales[static_cast<std::size_t>(row * o.groups) + group] = scales[group].step;
        result.zeros[static_cast<std::size_t>(row * o.groups) + group] = scales[group].zero;
      }
      const double v = w.at(row, column);
      const int code = code_of(v, scales[group], max_code);
      const double q = value_of(code, scales[group]);
      result.codes[static_cast<std::size_t>(row * n + column)] = code;
      result.quantized.at(row, column) = q;
      if (u == nullptr) continue;
      const double error = (v - q) / u->at(p, p);
      result.loss += error * error / 2;
      for (std::int64_t later = p + 1; later < n; ++later)
        w.at(row, o.visit[static_cast<std::size_t>(later)]) -= error * u->at(p, later);
    }
  }
  return result;
}

}  // namespace

Dense hessian(const Dense& x) {
  Dense h(x.cols, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t i = 0; i < x.cols; ++i)
      for (std::int64_t j = 0; j < x.cols; ++j)
        h.at(i, j) += x.at(t, i) * x.at(t, j) * 2 / static_cast<double>(x.rows);
  return h;
}

double quadratic_form(const Dense& d, const Dense& h) {
  double total = 0;
  for (std::int64_t row = 0; row < d.rows; ++row)
    for (std::int64_t i = 0; i < d.cols; ++i)
      for (std::int64_t j = 0; j < d.cols; ++j) total += d.at(row, i) * h.at(i, j) * d.at(row, j);
  return total;
}

Order column_order(const std::vector<double>& diagonal, const QuantizationSection& options) {
  const auto n = static_cast<std::int64_t>(diagonal.size());
  const std::int64_t width = options.group_size < 0 ? n : std::min(options.group_size, n);
  Order order;
  order.groups = (n + width - 1) / width;
  for (std::int64_t c = 0; c < n; ++c) {
    order.visit.push_back(c);
    order.group_of.push_back(c / width);
  }
  const auto at = [&](std::int64_t c) { return diagonal[static_cast<std::size_t>(c)]; };
  if (options.desc_act) {
    std::stable_sort(order.visit.begin(), order.visit.end(),
                     [&](std::int64_t a, std::int64_t b) { return at(a) > at(b); });
    if (!options.static_groups)
      for (std::int64_t p = 0; p < n; ++p)
        order.group_of[static_cast<std::size_t>(order.visit[static_cast<std::size_t>(p)])] = p / width;
  } else if (options.act_group_aware) {
    std::vector<double> largest(static_cast<std::size_t>(order.groups), 0.0);
    for (std::int64_t c = 0; c < n; ++c)
      largest[static_cast<std::size_t>(c / width)] =
          std::max(largest[static_cast<std::size_t>(c / width)], at(c));
    if (n % width != 0) largest.back() = -1;  // the ragged group stays last
    std::stable_sort(order.visit.begin(), order.visit.end(), [&](std::int64_t a, std::int64_t b) {
      const std::int64_t ga = a / width, gb = b / width;
      const double la = largest[static_cast<std::size_t>(ga)], lb = largest[static_cast<std::size_t>(gb)];
      if (ga == gb) return at(a) > at(b);
      return la != lb ? la > lb : ga < gb;
    });
  }
  return order;
}

Result quantize(const Dense& weight, const Dense& h, const QuantizationSection& options, int levels) {
  const std::int64_t n = weight.cols;
  const std::vector<double> diagonal = diagonal_of(h);
  Dense w = weight;
  double sum = 0, live = 0;
  for (const double d : diagonal) {
    sum += d;
    live += d > 0;
  }
  const double lambda = live == 0 ? 0 : options.damp_percent * sum / live;
  Order order = column_order(diagonal, options);
  Dense damped(n, n);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t ci = order.visit[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; j < n; ++j) damped.at(i, j) = h.at(ci, order.visit[static_cast<std::size_t>(j)]);
    if (diagonal[static_cast<std::size_t>(ci)] == 0) {
      damped.at(i, i) = 1;
      for (std::int64_t row = 0; row < w.rows; ++row) w.at(row, ci) = 0;
    }
    damped.at(i, i) += lambda;
  }
  const Dense lower = cholesky(inverse(damped));
  Dense upper(n, n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i; j < n; ++j) upper.at(i, j) = lower.at(j, i);
  return run(std::move(w), diagonal, &upper, std::move(order), options,
             levels == 0 ? 1 << options.bits : levels);
}

Result round_to_nearest(const Dense& weight, const QuantizationSection& options) {
  QuantizationSection plain = options;
  plain.desc_act = plain.act_group_aware = false;
  const std::vector<double> ones(static_cast<std::size_t>(weight.cols), 1.0);
  return run(weight, ones, nullptr, column_order(ones, plain), plain, 1 << plain.bits);
}

std::uint32_t packed_word(const std::vector<int>& codes, int bits, std::int64_t word) {
  std::uint32_t result = 0;
  for (std::int64_t bit = word * 32; bit < (word + 1) * 32; ++bit) {
    const auto code = static_cast<std::size_t>(bit / bits);
    const int value = code < codes.size() ? codes[code] : 0;
    if ((value >> (bit % bits)) & 1) result |= 1u << (bit % 32);
  }
  return result;
}

std::uint32_t packed_plane_word(const std::vector<int>& codes, int bits, std::int64_t word) {
  static const std::map<int, std::vector<int>> kWidths = {
      {2, {2}}, {3, {2, 1}}, {4, {4}}, {5, {4, 1}}, {6, {4, 2}}, {8, {8}}, {7, {4, 2, 1}}};
  const std::int64_t first = word / bits * 32;  // of the 32 codes that share `bits` words
  std::vector<int> stream;
  int low = 0;
  for (const int width : kWidths.at(bits)) {
    for (std::int64_t code = first; code < first + 32; ++code) {
      const auto place = static_cast<std::size_t>(code);
      for (int bit = low; bit < low + width; ++bit)
        stream.push_back(place < codes.size() ? codes[place] >> bit & 1 : 0);
    }
    low += width;
  }
  std::uint32_t result = 0;
  for (int bit = 31; bit >= 0; --bit)
    result =
        result << 1 | static_cast<std::uint32_t>(stream[static_cast<std::size_t>(word % bits * 32 + bit)]);
  return result;
}

}  // namespace gptq::reference
