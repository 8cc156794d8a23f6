#pragma once

#include <cstdint>

#include "kernels/cuda/cuda_context.h"
#include "kernels/kernels.h"

/// Private to the solve: what its kernels are told, and the functions that start them in the compute stream.
/// Matrices of a slice of rows lie transposed, (columns in visiting order, rows), so that a warp's loads of
/// neighbouring rows coalesce and a product's operands need no transposition: element (row, p) at
/// [p * rows + row]. `rows` is a multiple of kSolveTile; rows that do not exist are zeros.
namespace gptq::cuda {

constexpr int kSolveTile = 128;   ///< columns of a batch; rows and columns of a product's tile
constexpr int kSolveChunk = 512;  ///< columns whose products are summed apart from the others'
static_assert(kSolveTile == SolveOptions::kColumnBatch);

/// The search for one group's scale.
struct SolveGrid {
  const float* shrink = nullptr;  ///< (candidates): fractions of the full range to try, best first on ties
  int candidates = 1;
  int max_code = 0;
  int sym = 1;
  int two_zeros = 0;  ///< every second candidate has the second nearest zero
  float norm = 2;     ///< exponent of the error
};

/// As SolveSegment; offset counts columns of the batch.
struct SolvePart {
  int offset = 0;
  int count = 0;
  int search = 0;  ///< the group that starts here lies within the batch: find its scale
};

/// One column batch of all rows of a slice.
struct SolveBatchTask {
  std::int64_t rows = 0;
  int count = 0;                     ///< columns of the batch
  int chunks = 0;                    ///< of `partial`; 0: nothing is finished before this batch
  const float* w = nullptr;          ///< (count, rows): original weights
  float* difference = nullptr;       ///< out (count, rows): w - q, or w - v with `ahead`
  const float* partial = nullptr;    ///< (chunks, rows, 128): (W_P - Q_P) R_PB, row-major, in parts
  const float* inverse = nullptr;    ///< (128, 128): U = R_BB^-1, zeros beyond `count`; null: RTN
  const float* pivot = nullptr;      ///< (count): 1/U_jj; null: RTN
  const SolvePart* parts = nullptr;  ///< device (part_count)
  int part_count = 0;
  int fixed = 0;                  ///< a part's columns may have different scales, all known before
  int given = 0;                  ///< no scale is sought
  const float* weight = nullptr;  ///< (count): of the search
  const int* group = nullptr;     ///< (count)
  SolveGrid grid;
  float* scale = nullptr;         ///< in/out (groups, rows)
  float* zero = nullptr;          ///< in/out (groups, rows)
  std::uint8_t* codes = nullptr;  ///< out (count, rows)
  double* loss = nullptr;         ///< in/out (rows): += sum of ((v - q) / U_jj)²
  double* distance = nullptr;     ///< in/out (rows): += sum of (w - q)²
  float* ahead = nullptr;         ///< not null: only V is found, and written here: (ahead_count, rows)
  int ahead_count = 0;
};

/// Scales of whole groups from values that lie in memory.
struct SolveSearchTask {
  std::int64_t rows = 0;
  const float* values = nullptr;   ///< (columns, rows)
  const int* positions = nullptr;  ///< columns of all groups, one group behind the other; null: 0, 1, …
  const int* starts = nullptr;     ///< (groups + 1): where a group's columns begin
  const float* weight = nullptr;   ///< by column of `values`
  int first_group = 0;             ///< of scale and zero
  int groups = 0;
  SolveGrid grid;
  float* scale = nullptr;  ///< out (all groups, rows)
  float* zero = nullptr;
};

/// Rows of a file's matrix that lie on the device, (count, n).
struct SolveSource {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t first = 0;  ///< row of the slice that the first becomes
  std::int64_t count = 0;
};

// solve_load.cu
/// w[position[c]][row] = source(row, c), dead columns 0; square sums of all and of the dead weights by row,
/// unless null.
void load_rows(const CudaContext& context, const SolveSource& source, std::int64_t n, std::int64_t rows,
               const int* position, const std::uint8_t* dead, float* w, double* norm, double* dead_norm);
/// Codes (n, rows) in visiting order to (count, n) in the original order.
void store_codes(const CudaContext& context, const std::uint8_t* codes, std::int64_t n, std::int64_t rows,
                 std::int64_t count, const int* position, std::uint8_t* out);
/// Scales and zeros (groups, rows) to (count, groups), as halves and bytes.
void store_scales(const CudaContext& context, const float* scale, const float* zero, std::int64_t groups,
                  std::int64_t rows, std::int64_t count, std::uint16_t* scale_out, std::uint8_t* zero_out);

/// Codes (count, n) in the original order to rows [first, first + count) of (n, rows) in visiting order.
void load_codes(const CudaContext& context, const std::uint8_t* codes, std::int64_t first, std::int64_t count,
                std::int64_t n, std::int64_t rows, const int* position, std::uint8_t* out);
/// Rows [at, at + count) of scale and zero (groups, rows) from halves and bytes (count, groups); rows from
/// there to `end` get scale 1 and zero 0.
void load_scales(const CudaContext& context, const std::uint16_t* scales, const std::uint8_t* zeros,
                 std::int64_t groups, std::int64_t rows, std::int64_t at, std::int64_t count,
                 std::int64_t end, float* scale, float* zero);

// solve_invert.cu
/// Inverses (batches, 128, 128) of R's diagonal blocks [first, first + count), found in double precision, and
/// the blocks' diagonals (batches, 128). batch_first, batch_count: device (batches).
void invert_triangles(const CudaContext& context, const float* r, std::int64_t n, const int* batch_first,
                      const int* batch_count, int batches, float* inverse, float* pivot);

// solve_update.cu
/// One product of a slice's columns with a matrix of at most 128 columns.
struct SolveProduct {
  std::int64_t rows = 0;
  const float* x = nullptr;  ///< (depth, rows); finite up to a depth that is a multiple of 16
  const float* b = nullptr;  ///< (depth, count), or (count, depth) with `transposed`; rows `stride` apart
  std::int64_t stride = 0;
  bool transposed = false;
  std::int64_t depth = 0;
  int count = 0;
  float* packed = nullptr;  ///< round_up(depth, 16) * 128 floats, used where b's rows are not aligned
  float* partial = nullptr;  ///< out (solve_chunks(depth), rows, 128): xᵀ·b, row-major, in parts to be added
};
void multiply_columns(const CudaContext& context, const SolveProduct& product);
inline int solve_chunks(std::int64_t depth) {
  return static_cast<int>((depth + kSolveChunk - 1) / kSolveChunk);
}

/// A product with all columns of a square matrix: out (columns from first_column on, rows) = or += xᵀ·b, all
/// of the depth in one sum.
struct WideProduct {
  std::int64_t rows = 0, n = 0;
  const float* x = nullptr;     ///< (depth, rows)
  const float* b = nullptr;     ///< (depth, n), rows n apart
  const int* b_rows = nullptr;  ///< (depth): which rows of b; null: the first ones
  std::int64_t depth = 0;
  std::int64_t first_column = 0;  ///< columns before its tile of 128 are left alone
  bool accumulate = false;
  float* out = nullptr;  ///< (n, rows)
};
// solve_wide.cu
void multiply_wide(const CudaContext& context, const WideProduct& product);

/// The parts' sum, of `count` columns, with another matrix.
struct SolveFold {
  std::int64_t rows = 0;
  const float* partial = nullptr;  ///< (chunks, rows, 128)
  int chunks = 0;
  int count = 0;
  const float* base = nullptr;  ///< (count, rows): out = base - sum; null: out = sum
  float* out = nullptr;         ///< (width, rows): zeros from `count` on; may be base
  int width = 0;                ///< count..128
};
// solve_fold.cu
void fold_parts(const CudaContext& context, const SolveFold& fold);

// solve_columns.cu
void solve_columns(const CudaContext& context, const SolveBatchTask& task);

// solve_search.cu
void search_groups(const CudaContext& context, const SolveSearchTask& task);

// solve_norm.cu
/// parts (ceil(n / 128), rows): square sums of the columns of a tile of W·R.
void project_norms(const CudaContext& context, const float* w, std::int64_t rows, const float* r,
                   std::int64_t n, float* parts);
/// norm[row] = sum over tiles of parts.
void add_norms(const CudaContext& context, const float* parts, std::int64_t tiles, std::int64_t rows,
               double* norm);

}  // namespace gptq::cuda
