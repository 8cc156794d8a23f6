#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/tensor.h"

/// Every compute kernel of the job, declared once. kernels/cpu/NAME.cpp and kernels/cuda/NAME.cu hold the
/// implementations under the same names. Everything that is not called "host" lies in the backend's memory;
/// for the CPU the two are one. Kernels run in the order of their calls; one that returns host values waits
/// for them.
///
/// The law of all kernels: the bits of a batch's rows depend on that batch alone, never on the number of
/// threads or on what was computed before (DESIGN: same bytes for any number of ranks; a batch is a chunk of
/// the calibration data, which no rank shares). The CPU promises more: a sample's bits do not depend on the
/// other samples of its batch. Threads therefore split samples, fixed tiles of one sample's rows, or output
/// tiles, and the bits of a solved row depend on that row alone.
namespace gptq {

/// Which rows of a matrix belong to which sample: sample s holds rows [offsets[s], offsets[s+1]).
struct Batch {
  std::vector<std::int64_t> offsets{0};

  std::int64_t samples() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::int64_t rows() const { return offsets.back(); }
};

/// A linear module's weights in whatever layout the backend multiplies fastest. Immutable.
class LinearWeights {
 public:
  virtual ~LinearWeights() = default;
  virtual std::int64_t in_features() const = 0;
  virtual std::int64_t out_features() const = 0;
};

enum class Activation { silu, gelu_tanh, gelu, relu };

/// Where the heads of attention lie among the columns of a matrix: head h has `dim` columns from first +
/// h·pitch on.
struct HeadPattern {
  std::int64_t first = 0, pitch = 0, dim = 0;
};

/// What becomes of logits before their softmax: z·scale, then cap·tanh(z/cap).
struct LogitForm {
  float scale = 1;
  float cap = 0;  ///< > 0; 0: none

  bool is_plain() const { return scale == 1 && cap == 0; }
};

/// Causal self-attention of one block.
struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< heads % kv_heads == 0
  std::int64_t head_dim = 0;
  float scale = 0;          ///< multiplies q·k; usually head_dim^-1/2
  std::int64_t window = 0;  ///< > 0: a token sees itself and the window-1 tokens before it; 0: all before it
  float logit_softcap = 0;  ///< > 0: scores become cap*tanh(score/cap) before the mask
  /// (heads, key_bias_positions) floats in the backend's memory, added to the scaled (and capped) scores by
  /// the key's position in its sample (ALiBi); null: none. No sample is longer.
  const float* key_bias = nullptr;
  std::int64_t key_bias_positions = 0;
};

/// Angles of the rotary embedding: cos and sin of position * inverse frequency, arrays (positions,
/// rotary_dim/2) of floats. Borrows them.
struct RotaryTable {
  std::int64_t positions = 0;
  std::int64_t rotary_dim = 0;  ///< leading features of each head that are turned; even
  const float* cos = nullptr;
  const float* sin = nullptr;
};

/// Some neighbouring panels of a triangle: [first, end).
struct PanelRange {
  std::int64_t first = 0, end = 0;
};

/// Upper triangle of a symmetric n×n matrix of integers, cut into panels of kPanel rows: panel p holds rows
/// [p*kPanel, ...) and columns [p*kPanel, n), row-major, one panel after the other.
struct TriangularPanels {
  static constexpr std::int64_t kPanel = 192;

  static std::int64_t panels(std::int64_t n) { return (n + kPanel - 1) / kPanel; }
  /// Index of panel p's first element.
  static std::int64_t offset(std::int64_t n, std::int64_t panel) {
    return panel * kPanel * n - kPanel * kPanel * panel * (panel - 1) / 2;
  }
  /// Elements of some panels, which lie one after the other from offset(n, range.first) on.
  static std::int64_t size(std::int64_t n, PanelRange range) {
    return (range.end < panels(n) ? offset(n, range.end) : size(n)) - offset(n, range.first);
  }
  /// Elements of the whole: the offset just after the last (possibly lower) panel.
  static std::int64_t size(std::int64_t n) {
    const std::int64_t last = panels(n) - 1;
    return n == 0 ? 0 : offset(n, last) + (n - last * kPanel) * (n - last * kPanel);
  }
  /// Index of element (row, col), col >= row / kPanel * kPanel.
  static std::int64_t index(std::int64_t n, std::int64_t row, std::int64_t col) {
    const std::int64_t panel = row / kPanel;
    return offset(n, panel) + (row - panel * kPanel) * (n - panel * kPanel) + (col - panel * kPanel);
  }
};

/// What a stage group's Hessian is factored from.
struct FactorInput {
  std::int64_t n = 0;
  const std::int64_t* sum = nullptr;    ///< TriangularPanels of size(n)
  std::span<const int> exponents;       ///< host (n): H_ij = sum_ij 2^-(e_i+e_j) · scale
  double scale = 0;                     ///< 2 / tokens
  std::span<const std::int32_t> order;  ///< host (n): order[p] is the column visited p-th
  std::span<const std::uint8_t> dead;   ///< host (n): dead[column] != 0: H_ii counts as 1
  double damping = 0;                   ///< λ, added to the diagonal
};

/// A quantized linear as the output stores it; host arrays.
struct QuantizedWeights {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::int64_t groups = 1;
  const std::uint8_t* codes = nullptr;     ///< (out, in)
  const f16* scales = nullptr;             ///< (out, groups)
  const std::uint8_t* zeros = nullptr;     ///< (out, groups)
  const std::int32_t* group_of = nullptr;  ///< (in)
};

/// How the rows of one layer are quantized. Changes the result.
struct SolveOptions {
  int bits = 4;        ///< 2..8
  bool trits = false;  ///< three levels only, of the four that 2 bits hold: codes 0, 1, 2 (sym: zero = 1)
  bool sym = true;     ///< zero = (max_code + 1) / 2 for every group
  enum class Search { minmax, mse, weighted } search = Search::weighted;
  double norm = 2.0;              ///< exponent of the search's error
  int grid = 100;                 ///< steps of the search
  double max_shrink = 0.8;        ///< search ranges p = 1 - i/grid, i < max_shrink*grid
  bool refit_every_group = true;  ///< false (static_groups): scales from the original weights

  int max_code() const { return trits ? 2 : (1 << bits) - 1; }
  static constexpr std::int64_t kColumnBatch = 128;
  static constexpr std::int64_t kPanelRows =
      64;  ///< rows solved together; fixed, so that any rank gets the same bits
};

/// What the solve needs to know of the columns; host arrays, the same for every layer of a stage group.
struct SolveColumns {
  std::int64_t n = 0;
  std::int64_t groups = 1;
  std::vector<std::int32_t> order;     ///< order[p]: the column visited p-th
  std::vector<std::int32_t> group_of;  ///< group_of[column]: its scale's index (g_idx)
  std::vector<float> weight;  ///< weight[column] in [0, 1]: diag(H) / its maximum; weighs the scale search
  std::vector<std::uint8_t> dead;  ///< dead[column] != 0: no token ever used it; its weight becomes 0
};

/// Rows of one layer to be solved.
struct RowsToSolve {
  Matrix weight;  ///< host (rows, n), any floating dtype, original column order
  /// The whole layer's weights as prepare_linear() prepared them, and the number of `weight`'s first row in
  /// it; or null. A backend with memory of its own need not copy the rows there once more.
  const LinearWeights* prepared = nullptr;
  std::int64_t first_row = 0;
  /// Scales and zeros (rows, groups) that are given and not sought; host, or null.
  const f16* scales = nullptr;
  const std::uint8_t* zeros = nullptr;
  /// scale · Σ_t y_t x_tᵀ (rows, n) of the outputs y that are wanted of these rows, original column order, in
  /// the backend's memory; or null. For correct_rows().
  const float* wanted = nullptr;
};

/// How solved rows are improved. Changes the result.
struct RefineOptions {
  int sweeps = 3;            ///< over all columns
  bool refit_scales = true;  ///< before each sweep over a group's columns, its scale is fitted to the codes
};

/// The result for some rows of one layer; host arrays, row-major.
struct QuantizedRows {
  std::int64_t rows = 0;
  std::vector<std::uint8_t> codes;  ///< (rows, n), original column order
  std::vector<f16> scales;          ///< (rows, groups), as stored in the output
  std::vector<std::uint8_t> zeros;  ///< (rows, groups)
  std::vector<double>
      solve_loss;  ///< (rows): sum over columns of (v-q)^2 / (2 U_jj^2), GPTQ's own loss (raw H scale)
  std::vector<double> solve_error;   ///< (rows): output_error as the solve left it, before any refinement
  std::vector<double> output_error;  ///< (rows): (w-q) H (w-q)^T with undamped H
  std::vector<double> output_norm;   ///< (rows): w H w^T with undamped H
  std::vector<double> weight_error;  ///< (rows): |w-q|^2
  std::vector<double> weight_norm;   ///< (rows): |w|^2
};

/// (out, in) floats in host memory: scale · (code − zero).
HostTensor dequantize(const QuantizedWeights& weights);

class Kernels {
 public:
  virtual ~Kernels() = default;

  // ---- transformer forward
  // -----------------------------------------------------------------------------------

  /// Prepares weight (out, in) of any floating dtype, host memory, for products with inputs of `compute` type
  /// (f32 or bf16). bias: (out) floats or empty, host.
  virtual std::unique_ptr<LinearWeights> prepare_linear(const Matrix& weight, std::span<const float> bias,
                                                        DType compute) = 0;
  /// The same for scale · (code − zero), rounded to `compute`.
  virtual std::unique_ptr<LinearWeights> prepare_quantized(const QuantizedWeights& weights,
                                                           std::span<const float> bias, DType compute) = 0;
  /// y = x·Wᵀ + b, or y += … with accumulate. x: (rows, in) of the compute type; y: (rows, out), f32 or
  /// compute type.
  virtual void linear(const Batch& batch, const Matrix& x, const LinearWeights& weights, const Matrix& y,
                      bool accumulate) = 0;
  /// out[r] = table[ids[r]]; ids: host; table: (vocab, hidden) of any floating dtype, out f32.
  virtual void embed(std::span<const std::int32_t> ids, const Matrix& table, const Matrix& out) = 0;
  /// y = x / sqrt(mean(x²) + eps) * (weight + weight_offset), row by row. x: f32 or y's type. weight:
  /// (cols).
  virtual void rms_norm(const Matrix& x, std::span<const float> weight, float eps, float weight_offset,
                        const Matrix& y) = 0;
  /// RMS norm of each head's head_dim features in place (Qwen3's q/k norm). x: (rows, heads*head_dim).
  virtual void head_rms_norm(const Matrix& x, std::span<const float> weight, float eps,
                             float weight_offset) = 0;
  /// y = (x − mean) / sqrt(variance + eps) * weight + bias for each run of `features` columns of a row; the
  /// variance is the mean square of x − mean. weight: (features), the same for all runs, or (cols); bias: of
  /// weight's size, or empty. x: f32 or y's type; y may be x.
  virtual void layer_norm(const Matrix& x, std::int64_t features, std::span<const float> weight,
                          std::span<const float> bias, float eps, const Matrix& y) = 0;
  /// Turns the first rotary_dim features of each head by its token's angle (rotate-half convention), in
  /// place.
  virtual void rotary(const Batch& batch, const Matrix& x, std::int64_t head_dim,
                      const RotaryTable& table) = 0;
  /// out = softmax(scale q kᵀ + causal mask) v per sample and head; q, out: (rows, heads*head_dim),
  /// k, v: (rows, kv_heads*head_dim). Scores are never stored beyond a tile.
  virtual void attention(const Batch& batch, const AttentionShape& shape, const Matrix& q, const Matrix& k,
                         const Matrix& v, const Matrix& out) = 0;
  /// out = activation(gate) * up, element by element; computed in f32. out may be gate or up.
  virtual void gated_activation(Activation activation, const Matrix& gate, const Matrix& up,
                                const Matrix& out) = 0;
  /// y = activation(x), element by element; computed in f32. One type and shape; y may be x.
  virtual void activation(Activation kind, const Matrix& x, const Matrix& y) = 0;
  /// Copies `heads` heads, which x and y may hold in different places; y's other columns stay. Both f32 or
  /// both bf16, of as many rows; from.dim == to.dim. x and y must not overlap.
  virtual void copy_heads(const Matrix& x, HeadPattern from, const Matrix& y, HeadPattern to,
                          std::int64_t heads) = 0;
  /// y = x, rounded once where y is bf16. Each f32 or bf16, of one shape.
  virtual void convert(const Matrix& x, const Matrix& y) = 0;
  /// hidden += factor · y; both f32, of one shape.
  virtual void add_scaled(const Matrix& y, float factor, const Matrix& hidden) = 0;
  /// x *= factor, f32.
  virtual void scale(const Matrix& x, float factor) = 0;
  /// hidden[r] += table[first + p] for the token at position p of its sample; both f32, of as many columns.
  /// No sample is longer than table.rows − first.
  virtual void add_positions(const Batch& batch, const Matrix& table, std::int64_t first,
                             const Matrix& hidden) = 0;
  /// losses[r] = -log softmax(form(x[r]·Wᵀ))[targets[r]] for each row; rows with target < 0 give 0. Host
  /// targets and losses.
  virtual void cross_entropy(const Batch& batch, const Matrix& x, const LinearWeights& head,
                             std::span<const std::int32_t> targets, std::span<double> losses,
                             const LogitForm& form) = 0;
  /// False if x holds NaN or infinity.
  virtual bool all_finite(const Matrix& x) = 0;

  // ---- Hessian
  // -----------------------------------------------------------------------------------------------

  /// maximum[c] = max(maximum[c], max_r |x(r, c)|), maximum: (cols) floats >= 0. NaN in x gives NaN.
  virtual void column_max(const Matrix& x, float* maximum) = 0;
  /// How the panels of n columns are dealt out to calls of accumulate_hessian: in order, and none left out. A
  /// function of n alone. More than one where the sum of a range over the ranks may be under way while the
  /// next range is multiplied.
  virtual std::vector<PanelRange> hessian_ranges(std::int64_t n) const {
    return {{0, TriangularPanels::panels(n)}};
  }
  /// sum += round(2^(exponents[i]+exponents[j]) · (XᵀX)_ij) over a range of the upper triangle's panels, the
  /// product of this chunk taken in f32. x: (rows, n) of compute type; exponents: host; sum: TriangularPanels
  /// of size(n), of which only the range is touched. The range may decide bits: so a job uses those of
  /// hessian_ranges and no other, in any order.
  virtual void accumulate_hessian(const Matrix& x, std::span<const int> exponents, PanelRange range,
                                  std::int64_t* sum) = 0;

  // ---- solve
  // -------------------------------------------------------------------------------------------------

  /// diagonal[i] = H_ii, host.
  virtual void hessian_diagonal(const std::int64_t* sum, std::span<const int> exponents, double scale,
                                std::span<double> diagonal) = 0;
  /// Upper triangular R with H + λI = R·Rᵀ in visiting order, found in double precision and rounded; r: (n,
  /// n) row-major floats, the strict lower triangle 0. Returns false (contents then undefined) if H + λI is
  /// not positive definite or a diagonal entry of R is no normal float.
  virtual bool factor(const FactorInput& input, float* r) = 0;
  /// GPTQ on rows of layers that share their columns; one result a part. r: what factor() gave for
  /// `columns.order`, or null: round to nearest. damping: the λ in it. Throws NumericalError where a row
  /// gives NaN.
  virtual std::vector<QuantizedRows> solve_rows(std::span<const RowsToSolve> parts,
                                                const SolveColumns& columns, const float* r, double damping,
                                                const SolveOptions& options) = 0;

  // ---- beyond plain GPTQ
  // -------------------------------------------------------------------------------------

  /// y = x / sqrt(mean(hidden²) + eps), row by row: what a row counts for after the next norm. hidden: (rows,
  /// any) f32; x, y: (rows, n) of the compute type; y may be x.
  virtual void weigh_rows(const Matrix& hidden, float eps, const Matrix& x, const Matrix& y) = 0;
  /// y = a − b, less the bias (cols floats, host; or empty) in each row; found in f32 and rounded once. a, b:
  /// f32 or bf16, of one type; y: that type, or bf16; all of one shape; y may be neither.
  virtual void subtract(const Matrix& a, const Matrix& b, std::span<const float> bias, const Matrix& y) = 0;
  /// Per sample: error = Σ (a − b)², norm = Σ a². a, b: f32 or compute type, the same shape; host results.
  virtual void squared_error(const Batch& batch, const Matrix& a, const Matrix& b, std::span<double> error,
                             std::span<double> norm) = 0;
  /// sum_ij += round(2^(d_exponents[i]+exponents[j]) · (dᵀ·x)_ij), the product of this chunk taken in f32. d:
  /// (rows, m), x: (rows, n), both of compute type; sum: (m, n) row-major.
  virtual void accumulate_cross(const Matrix& d, std::span<const int> d_exponents, const Matrix& x,
                                std::span<const int> exponents, std::int64_t* sum) = 0;
  /// h = H + λI in visiting order, dead columns' diagonal 1 + λ, found in double precision and rounded; h:
  /// (n, n) row-major floats, full.
  virtual void expand_hessian(const FactorInput& input, float* h) = 0;
  /// m = scale·C in visiting order, C_ij = cross_ij 2^-(d_exponents[i]+exponents[j]), found in double
  /// precision and rounded; of `input` only n, order, exponents and scale count. m: (n, n) row-major floats.
  virtual void expand_cross(const FactorInput& input, const std::int64_t* cross,
                            std::span<const int> d_exponents, float* m) = 0;
  /// The same for `rows` rows, which are no columns of the input, in the original order. wanted: (rows, n).
  virtual void expand_wanted(const FactorInput& input, const std::int64_t* cross, std::int64_t rows,
                             std::span<const int> d_exponents, float* wanted) = 0;
  /// W + α·D·(R·Rᵀ)⁻¹ for rows of layers that share their columns: the weights that, applied to the quantized
  /// stream, come nearest to what is wanted of them. D = W·M: what W makes of the full-precision stream is
  /// wanted (QEP, GPTAQ); where the parts say what is `wanted`, D = wanted − W·M with M = H, undamped. m, r:
  /// (n, n) in visiting order. One host tensor (rows, n) f32 a part, original column order. A row's bits
  /// depend on that row alone. Throws NumericalError where a row gives NaN.
  virtual std::vector<HostTensor> correct_rows(std::span<const RowsToSolve> parts,
                                               const SolveColumns& columns, const float* m, const float* r,
                                               double alpha) = 0;
  /// Coordinate descent on the exact objective (w−q)·H·(w−q)ᵀ of each row, column by column in visiting
  /// order, from the codes and scales in `rows`; with refit_scales the closed-form best scale of a group,
  /// given its codes and rounded to fp16, goes first. h: expand_hessian() with damping 0. A step that does
  /// not lower the objective is not taken, and a row whose objective ended no lower keeps what it had.
  /// Updates codes, scales, output_error and weight_error, and measures solve_error as it measures
  /// output_error; `solve_loss` stays that of the solve. A row's bits depend on that row alone.
  virtual void refine_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns, const float* h,
                           const SolveOptions& options, const RefineOptions& refine,
                           std::span<QuantizedRows> rows) = 0;
};

/// All of a chunk's products, range by range.
inline void accumulate_hessian(Kernels& kernels, const Matrix& x, std::span<const int> exponents,
                               std::int64_t* sum) {
  for (const PanelRange& range : kernels.hessian_ranges(x.cols))
    kernels.accumulate_hessian(x, exponents, range, sum);
}

}  // namespace gptq
