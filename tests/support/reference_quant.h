#pragma once

#include <cstdint>
#include <vector>

#include "config/job_config.h"
#include "kernels/kernels.h"
#include "quant/quantized_layer.h"

/// Textbook GPTQ in double precision, one column at a time, with an explicit inverse of the Hessian; the
/// oracle of the solve. Nothing here is fast, and nothing shares code with src/quant or kernels beyond plain
/// types.
namespace gptq::reference {

/// Row-major.
struct Dense {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> values;

  Dense() = default;
  Dense(std::int64_t r, std::int64_t c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c)) {}
  double& at(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * cols + c)]; }
  double at(std::int64_t r, std::int64_t c) const { return values[static_cast<std::size_t>(r * cols + c)]; }
};

/// (2 / rows) XᵀX
Dense hessian(const Dense& x);

/// Sum over rows of d H dᵀ.
double quadratic_form(const Dense& d, const Dense& h);

struct Order {
  std::vector<std::int64_t> visit;     ///< visit[p]: column
  std::vector<std::int64_t> group_of;  ///< by column
  std::int64_t groups = 0;
};
Order column_order(const std::vector<double>& diagonal, const QuantizationSection& options);

struct Result {
  std::vector<int> codes;      ///< (rows, n)
  std::vector<double> scales;  ///< (rows, groups)
  std::vector<int> zeros;      ///< (rows, groups)
  Dense quantized;             ///< (rows, n)
  double loss = 0;             ///< Σ (v-q)² / (2 U²)
  Order order;
};

/// GPTQ with the options' damping (H + λI must be positive definite). levels: of a code; 0: 2^bits.
Result quantize(const Dense& weight, const Dense& hessian, const QuantizationSection& options,
                int levels = 0);

/// Round to nearest with the same scale search, every column weighing the same.
Result round_to_nearest(const Dense& weight, const QuantizationSection& options);

/// Word `word` of a stream of fields: bit b of the stream is bit b % bits of code b / bits. Codes past the
/// end are 0.
std::uint32_t packed_word(const std::vector<int>& codes, int bits, std::int64_t word);

/// The same of gptq_p: 32 codes fill `bits` words with the stream of their lowest bits (4 of 5 to 7, 2 of 3,
/// all of 2, 4 and 8), then the stream of the next (2 of 6 and 7), then that of a highest bit that is left.
std::uint32_t packed_plane_word(const std::vector<int>& codes, int bits, std::int64_t word);

}  // namespace gptq::reference
