#include "support/reference_forward.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "base/error.h"

namespace gptq::reference {
namespace {

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::relu:
      return std::max(x, 0.0);
  }
  return 0;
}

double element(const Matrix& m, std::int64_t r, std::int64_t c) {
  switch (m.dtype) {
    case DType::f32:
      return m.row<float>(r)[c];
    case DType::bf16:
      return to_float(m.row<bf16>(r)[c]);
    case DType::f16:
      return to_float(m.row<f16>(r)[c]);
    default:
      contract_violation("a floating type", __FILE__, __LINE__);
  }
}

/// One head's output for the token at `position` of a sample that starts at row `first`.
void attend(const AttentionShape& shape, const Array& q, const Array& k, const Array& v,
            const std::vector<float>& key_bias, std::int64_t first, std::int64_t position, std::int64_t head,
            Array& out) {
  const std::int64_t dim = shape.head_dim;
  const std::int64_t kv = head / (shape.heads / shape.kv_heads);
  const std::int64_t start = shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0;
  std::vector<double> weights;
  double top = -INFINITY;
  for (std::int64_t p = start; p <= position; ++p) {
    double score = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
      score += q.at(first + position, head * dim + d) * k.at(first + p, kv * dim + d);
    }
    score *= shape.scale;
    if (shape.logit_softcap > 0) score = shape.logit_softcap * std::tanh(score / shape.logit_softcap);
    if (!key_bias.empty())
      score += static_cast<double>(key_bias[static_cast<std::size_t>(head * shape.key_bias_positions + p)]);
    weights.push_back(score);
    top = std::max(top, score);
  }
  double sum = 0;
  for (double& w : weights) sum += w = std::exp(w - top);
  for (std::int64_t p = start; p <= position; ++p) {
    for (std::int64_t d = 0; d < dim; ++d) {
      out.at(first + position, head * dim + d) +=
          weights[static_cast<std::size_t>(p - start)] / sum * v.at(first + p, kv * dim + d);
    }
  }
}

}  // namespace

Array random_array(std::int64_t rows, std::int64_t cols, DType dtype, unsigned seed, double scale) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  Array result(rows, cols);
  for (double& value : result.values) {
    const float single = static_cast<float>(normal(generator));
    value = dtype == DType::bf16  ? to_float(to_bf16(single))
            : dtype == DType::f16 ? to_float(to_f16(single))
                                  : single;
  }
  return result;
}

HostTensor to_tensor(const Array& array, DType dtype) {
  HostTensor tensor = make_tensor(DType::f32, {array.rows, array.cols});
  const std::vector<float> floats = to_floats(array);
  std::copy(floats.begin(), floats.end(), reinterpret_cast<float*>(tensor.storage.data()));
  return convert(tensor, dtype);
}

Array from_matrix(const Matrix& matrix) {
  Array result(matrix.rows, matrix.cols);
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t c = 0; c < matrix.cols; ++c) result.at(r, c) = element(matrix, r, c);
  }
  return result;
}

std::vector<float> to_floats(const Array& array) {
  std::vector<float> result;
  for (const double value : array.values) result.push_back(static_cast<float>(value));
  return result;
}

double largest_difference(const Array& a, const Array& b) {
  GPTQ_EXPECT(a.values.size() == b.values.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    const double difference = std::abs(a.values[i] - b.values[i]) / (1 + std::abs(b.values[i]));
    if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
  }
  return largest;
}

Array linear(const Array& x, const Array& weight, const std::vector<float>& bias) {
  Array y(x.rows, weight.rows);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t o = 0; o < weight.rows; ++o) {
      double sum = bias.empty() ? 0.0 : static_cast<double>(bias[static_cast<std::size_t>(o)]);
      for (std::int64_t i = 0; i < x.cols; ++i) sum += x.at(r, i) * weight.at(o, i);
      y.at(r, o) = sum;
    }
  }
  return y;
}

Array rms_norm(const Array& x, const std::vector<float>& weight, double eps, double offset) {
  const auto n = static_cast<std::int64_t>(weight.size());
  Array y(x.rows, x.cols);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t first = 0; first < x.cols; first += n) {
      double squares = 0;
      for (std::int64_t i = 0; i < n; ++i) squares += x.at(r, first + i) * x.at(r, first + i);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
      for (std::int64_t i = 0; i < n; ++i) {
        y.at(r, first + i) =
            x.at(r, first + i) * scale * (static_cast<double>(weight[static_cast<std::size_t>(i)]) + offset);
      }
    }
  }
  return y;
}

Array layer_norm(const Array& x, std::int64_t features, const std::vector<float>& weight,
                 const std::vector<float>& bias, double eps) {
  Array y(x.rows, x.cols);
  const auto n = static_cast<double>(features);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t first = 0; first < x.cols; first += features) {
      double mean = 0, variance = 0;
      for (std::int64_t i = 0; i < features; ++i) mean += x.at(r, first + i) / n;
      for (std::int64_t i = 0; i < features; ++i) variance += std::pow(x.at(r, first + i) - mean, 2) / n;
      for (std::int64_t i = 0; i < features; ++i) {
        const auto at = static_cast<std::size_t>(first + i) % weight.size();
        const double shift = bias.empty() ? 0.0 : static_cast<double>(bias[at]);
        y.at(r, first + i) =
            (x.at(r, first + i) - mean) / std::sqrt(variance + eps) * static_cast<double>(weight[at]) + shift;
      }
    }
  }
  return y;
}

Array activation(Activation kind, const Array& x) {
  Array y(x.rows, x.cols);
  for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] = activate(kind, x.values[i]);
  return y;
}

Array rotary(const Batch& batch, const Array& x, std::int64_t head_dim, const RotaryAngles& angles) {
  Array y = x;
  const std::int64_t half = angles.rotary_dim / 2;
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    for (std::int64_t row = batch.offsets[s]; row < batch.offsets[s + 1]; ++row) {
      for (std::int64_t c = 0; c < x.cols; ++c) {
        const std::int64_t d = c % head_dim;
        if (d >= angles.rotary_dim) continue;
        const auto angle = static_cast<std::size_t>((row - batch.offsets[s]) * half + d % half);
        const double partner = d < half ? -x.at(row, c + half) : x.at(row, c - half);
        y.at(row, c) = x.at(row, c) * static_cast<double>(angles.cos[angle]) +
                       partner * static_cast<double>(angles.sin[angle]);
      }
    }
  }
  return y;
}

Array attention(const Batch& batch, const AttentionShape& shape, const Array& q, const Array& k,
                const Array& v, const std::vector<float>& key_bias) {
  Array out(q.rows, q.cols);
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      const std::int64_t length = batch.offsets[s + 1] - batch.offsets[s];
      for (std::int64_t p = 0; p < length; ++p)
        attend(shape, q, k, v, key_bias, batch.offsets[s], p, head, out);
    }
  }
  return out;
}

Array gated_activation(Activation activation, const Array& gate, const Array& up) {
  Array out(gate.rows, gate.cols);
  for (std::size_t i = 0; i < out.values.size(); ++i) {
    out.values[i] = activate(activation, gate.values[i]) * up.values[i];
  }
  return out;
}

std::vector<double> cross_entropy(const Array& logits, const std::vector<std::int32_t>& targets,
                                  const LogitForm& form) {
  const auto shaped = [&](double z) {
    z *= static_cast<double>(form.scale);
    const auto cap = static_cast<double>(form.cap);
    return cap > 0 ? cap * std::tanh(z / cap) : z;
  };
  std::vector<double> losses;
  for (std::int64_t r = 0; r < logits.rows; ++r) {
    const std::int32_t target = targets[static_cast<std::size_t>(r)];
    double sum = 0;
    for (std::int64_t c = 0; c < logits.cols; ++c) sum += std::exp(shaped(logits.at(r, c)));
    losses.push_back(target < 0 ? 0.0 : std::log(sum) - shaped(logits.at(r, target)));
  }
  return losses;
}

}  // namespace gptq::reference
