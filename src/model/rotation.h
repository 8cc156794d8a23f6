#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace gptq {

/// The orthogonal matrix Θ = diag(s)·(H ⊗ Q) of size n = 2^k·m, m odd: H is the 2^k × 2^k Hadamard matrix of
/// Sylvester's construction over √(2^k), Q the m × m Hartley matrix cos(2πij/m) + sin(2πij/m) over √m, s
/// random signs. No entry is larger than √(2/n), so a single large coordinate is spread over all. Applied in
/// O(n·(m + k)) additions, in double; no result depends on how work was cut.
class Rotation {
 public:
  /// Q is applied as a dense matrix: widths with a larger odd factor are refused.
  static constexpr std::int64_t kLargestOddFactor = 255;

  /// Why no Θ is made for this width, as a half-sentence; nothing if one is.
  static std::optional<std::string> obstacle(std::int64_t width);

  /// stream: which of the sequences of signs. Width must have no obstacle.
  Rotation(std::int64_t width, std::uint32_t stream);

  std::int64_t width() const { return width_; }

  /// x (width, count), rows one after the other: becomes Θᵀ·x.
  void turn(double* x, std::int64_t count) const;

 private:
  void apply_dense_factor(double* x, std::int64_t count) const;
  void apply_hadamard(double* x, std::int64_t count) const;

  std::int64_t width_;
  std::int64_t odd_;           ///< m
  std::vector<double> signs_;  ///< s over √(2^k)
  std::vector<double> dense_;  ///< Q, (m, m); symmetric
};

/// Sign i of a stream: +1 or −1 by the highest bit of SplitMix64's output function (Steele, Lea, Flood 2014)
/// at the counter stream·2^32 + i + 1. Part of the output format: it must never change.
double random_sign(std::uint32_t stream, std::uint32_t i);

/// How a weight W (out, in) changes: outputsᵀ · W · diag(input_scale) · inputs. A rotation narrower than its
/// side of W acts on each run of its width, as on the heads of attention. Null: nothing happens on that side.
struct WeightTurn {
  const HostTensor* input_scale = nullptr;  ///< (in), f32
  const Rotation* inputs = nullptr;         ///< its width divides in
  const Rotation* outputs = nullptr;        ///< its width divides out
};

/// weight: f32, f16 or bf16, result: the same shape in any of them, perhaps the same memory and type. Each
/// element is rounded once, from double through f32. A few megabytes of memory beside. True if all results
/// are finite.
bool turn_weight(const Matrix& weight, const WeightTurn& how, const Matrix& result);

}  // namespace gptq
