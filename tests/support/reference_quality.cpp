#include "support/reference_quality.h"

#include <cmath>
#include <stdexcept>

namespace gptq::reference {
namespace {

std::size_t place_of_scale(const SolveColumns& columns, std::int64_t row, std::int64_t column) {
  return static_cast<std::size_t>(row * columns.groups + columns.group_of[static_cast<std::size_t>(column)]);
}

double loss_of(const std::vector<double>& d, const Dense& h) {
  double loss = 0;
  for (std::int64_t i = 0; i < h.rows; ++i)
    for (std::int64_t j = 0; j < h.rows; ++j)
      loss += d[static_cast<std::size_t>(i)] * h.at(i, j) * d[static_cast<std::size_t>(j)];
  return loss;
}

/// w − q of one row, 0 in dead columns.
std::vector<double> difference_of(const Dense& weight, const Dense& q, const Dense& h, std::int64_t row) {
  std::vector<double> d;
  for (std::int64_t c = 0; c < q.cols; ++c)
    d.push_back(h.at(c, c) == 0 ? 0 : weight.at(row, c) - q.at(row, c));
  return d;
}

}  // namespace

Dense values_of(const QuantizedRows& rows, const SolveColumns& columns) {
  Dense q(rows.rows, columns.n);
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; ++c) {
      const std::size_t place = place_of_scale(columns, r, c);
      const int code = rows.codes[static_cast<std::size_t>(r * q.cols + c)];
      q.at(r, c) = static_cast<double>(to_float(rows.scales[place])) * (code - rows.zeros[place]);
    }
  }
  return q;
}

std::vector<double> exact_losses(const Dense& weight, const Dense& h, const QuantizedRows& rows,
                                 const SolveColumns& columns) {
  const Dense q = values_of(rows, columns);
  std::vector<double> losses;
  for (std::int64_t r = 0; r < q.rows; ++r) losses.push_back(loss_of(difference_of(weight, q, h, r), h));
  return losses;
}

Dense cross(const Dense& a, const Dense& b) {
  Dense c(a.cols, b.cols);
  for (std::int64_t t = 0; t < a.rows; ++t)
    for (std::int64_t i = 0; i < a.cols; ++i)
      for (std::int64_t j = 0; j < b.cols; ++j)
        c.at(i, j) += a.at(t, i) * b.at(t, j) * 2 / static_cast<double>(a.rows);
  return c;
}

Dense solve_right(const Dense& b, const Dense& a) {
  // Aᵀ Xᵀ = Bᵀ: columns of A are the rows that are eliminated.
  const std::int64_t n = a.rows;
  Dense rows = a, right = b;
  for (std::int64_t k = 0; k < n; ++k) {
    std::int64_t pivot = k;
    for (std::int64_t c = k; c < n; ++c)
      if (std::abs(rows.at(k, c)) > std::abs(rows.at(k, pivot))) pivot = c;
    if (rows.at(k, pivot) == 0) throw std::runtime_error("reference: singular");
    for (std::int64_t r = 0; r < n; ++r) std::swap(rows.at(r, k), rows.at(r, pivot));
    for (std::int64_t r = 0; r < b.rows; ++r) std::swap(right.at(r, k), right.at(r, pivot));
    for (std::int64_t c = 0; c < n; ++c) {
      if (c == k) continue;
      const double factor = rows.at(k, c) / rows.at(k, k);
      for (std::int64_t r = k; r < n; ++r) rows.at(r, c) -= factor * rows.at(r, k);
      for (std::int64_t r = 0; r < b.rows; ++r) right.at(r, c) -= factor * right.at(r, k);
    }
  }
  for (std::int64_t k = 0; k < n; ++k)
    for (std::int64_t r = 0; r < b.rows; ++r) right.at(r, k) /= rows.at(k, k);
  return right;
}

Dense correct(const Dense& weight, const Dense& c, const Dense& h, double damping, double alpha) {
  const std::int64_t n = h.rows;
  Dense damped = h, y(weight.rows, n), result = weight;
  for (std::int64_t i = 0; i < n; ++i) damped.at(i, i) = (h.at(i, i) == 0 ? 1 : h.at(i, i)) + damping;
  for (std::int64_t r = 0; r < weight.rows; ++r)
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) y.at(r, j) += weight.at(r, i) * (c.at(i, j) - h.at(i, j));
  const Dense change = solve_right(y, damped);
  for (std::size_t k = 0; k < result.values.size(); ++k) result.values[k] += alpha * change.values[k];
  return result;
}

std::vector<int> best_codes(const std::vector<double>& w, const Dense& h, const std::vector<double>& scale,
                            const std::vector<int>& zero, int max_code) {
  const std::size_t n = w.size();
  std::vector<int> codes(n, 0), best;
  double lowest = 0;
  for (;;) {
    std::vector<double> d;
    for (std::size_t c = 0; c < n; ++c) d.push_back(w[c] - scale[c] * (codes[c] - zero[c]));
    const double loss = loss_of(d, h);
    if (best.empty() || loss < lowest) {
      lowest = loss;
      best = codes;
    }
    std::size_t digit = 0;  // the next number in base max_code + 1
    while (digit < n && ++codes[digit] > max_code) codes[digit++] = 0;
    if (digit == n) return best;
  }
}

bool is_optimal_by_column(const Dense& weight, const Dense& h, const QuantizedRows& rows,
                          const SolveColumns& columns, int max_code, double tolerance) {
  const Dense q = values_of(rows, columns);
  for (std::int64_t r = 0; r < q.rows; ++r) {
    const std::vector<double> d = difference_of(weight, q, h, r);
    const double loss = loss_of(d, h);
    for (std::int64_t c = 0; c < q.cols; ++c) {
      if (h.at(c, c) == 0) continue;
      const double scale = to_float(rows.scales[place_of_scale(columns, r, c)]);
      double gradient = 0;
      for (std::int64_t j = 0; j < q.cols; ++j) gradient += d[static_cast<std::size_t>(j)] * h.at(j, c);
      const int now = rows.codes[static_cast<std::size_t>(r * q.cols + c)];
      for (int code = 0; code <= max_code; ++code) {
        const double step = scale * (code - now);
        if (step * step * h.at(c, c) - 2 * step * gradient < -tolerance * loss) return false;
      }
    }
  }
  return true;
}

}  // namespace gptq::reference
