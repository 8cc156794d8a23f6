#pragma once

namespace gptq {

/// Inner loops of the solve; see isa.h for how the three builds are chosen. All work on one panel of 64 rows
/// stored column by column: element (row, column) of x at x[column * 64 + row], so that every operation is a
/// vector over rows and a row's bits never depend on its neighbours.
enum { kSolveRows = 64, kSolveBatch = 128 };

/// What the scale search of one group needs.
struct SearchTask {
  const float* x;       ///< (columns, 64) weights to be represented
  const float* weight;  ///< (columns), >= 0, at most 1: weight of each column's error
  long columns;
  int max_code;  ///< 2^bits - 1
  bool sym;
  bool two_zeros;       ///< every second candidate has the second nearest zero
  float norm;           ///< exponent of the error
  long candidates;      ///< >= 1
  const float* shrink;  ///< (candidates): the fractions of the full range to try, best first on ties
  float* scratch;       ///< search_scratch(candidates) floats
  float* scale;         ///< out (64): representable in f16
  float* zero;          ///< out (64): whole numbers
};

/// Columns [first, last) of one column batch. v holds the errors of all columns before `first`.
struct ColumnsTask {
  long first, last;
  float* v;              ///< in/out (batch, 64): weights, brought up to date as columns are quantized
  const float* w;        ///< (batch, 64): original weights
  const float* inverse;  ///< (batch, 128): transposed inverse U of the batch's triangle, U_ij at [j*128 + i];
                         ///< null: RTN
  const float* pivot;    ///< (batch): 1/U_jj; null: RTN
  const int* group;      ///< (batch): each column's group
  const float* scale;    ///< (groups, 64)
  const float* zero;     ///< (groups, 64)
  int max_code;
  float* e;              ///< in/out (batch, 64): errors (v - q) / U_jj
  float* difference;     ///< out (batch, 64): w - q
  unsigned char* codes;  ///< out (batch, 64)
  double* loss;          ///< in/out (64): += sum of e²
  double* distance;      ///< in/out (64): += sum of (w - q)²
};

struct SolveTable {
  /// c (4*tiles, 64) = or += x (k, 64) times packed (tiles, k, 4); triangular: tile t uses only its first
  /// 4(t+1) rows.
  void (*multiply)(const float* x, const float* packed, long k, long tiles, bool triangular, bool accumulate,
                   float* c);
  /// Packs rows [0, k) and columns [0, columns) of r (stride floats a row) into (ceil(columns/4), k, 4),
  /// zero-padded.
  void (*pack)(const float* r, long stride, long k, long columns, float* packed);
  /// inverse (n, 128) floats: transposed inverse of the upper triangular r; work: 128*128 doubles; n <= 128.
  void (*invert)(const float* r, long stride, long n, double* work, float* inverse);
  void (*search)(const SearchTask& task);
  /// v[column] -= errors of batch columns [from, to), for columns [first, last).
  void (*propagate)(float* v, const float* e, const float* inverse, long first, long last, long from,
                    long to);
  void (*quantize)(const ColumnsTask& task);
  /// sums[row] += sum over columns of x²
  void (*add_squares)(const float* x, long columns, double* sums);
};

inline constexpr long kSearchArrays = 4;

namespace isa_v2 {
extern const SolveTable solve_table;
}
namespace isa_v3 {
extern const SolveTable solve_table;
}
namespace isa_v4 {
extern const SolveTable solve_table;
}

}  // namespace gptq
