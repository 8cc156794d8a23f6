#pragma once

namespace gptq {

/// Inner loops of the refinement; see isa.h for how the three builds are chosen. Panels of 64 rows as in
/// solve_panel.h, whose functions do the rest. A code stands for the value (code - zero) * scale; g is the
/// row (w - q) H.

/// Columns [first, last) of one batch, one after the other: each takes the best code, given all others.
struct DescendTask {
  long first, last;
  float* g;            ///< in/out (batch, 64): up to date for the steps of all columns before `first`
  const float* h;      ///< (batch, 128): the batch's block of H
  const int* group;    ///< (batch): each column's group
  const float* scale;  ///< (groups, 64)
  const float* zero;   ///< (groups, 64)
  int max_code;
  unsigned char* codes;  ///< in/out (batch, 64)
  float* step;           ///< out (batch, 64): new value - old value
};

/// The best scale of one group, given its codes; units: code - zero of its columns.
struct RescaleTask {
  const float* gain;   ///< (64): units · g
  const float* curve;  ///< (64): units H unitsᵀ
  float* scale;        ///< in/out (64); stays representable in f16, positive and finite
  float* step;         ///< out (64): new scale - old scale; 0 where the objective would not fall
};

struct RefineTable {
  /// c (columns, 64) = or += x (k, 64) times the transposed of rows (columns, k), stride floats a row. Where
  /// they are rows of a symmetric matrix: times so many of its columns.
  void (*multiply_rows)(const float* x, const float* rows, long stride, long k, long columns, bool accumulate,
                        float* c);
  void (*descend)(const DescendTask& task);
  void (*rescale)(const RescaleTask& task);
  /// units (64) = code - zero of one column
  void (*units)(const unsigned char* codes, const float* zero, float* units);
  /// difference (64) = w - (code - zero) * scale of one column
  void (*difference)(const float* w, const unsigned char* codes, const float* scale, const float* zero,
                     float* difference);
  /// y -= x * factor, column by column; factor: (64)
  void (*subtract_scaled)(const float* x, const float* factor, long columns, float* y);
  /// sums[row] += sum over columns of x * y
  void (*add_products)(const float* x, const float* y, long columns, double* sums);
};

namespace isa_v2 {
extern const RefineTable refine_table;
}
namespace isa_v3 {
extern const RefineTable refine_table;
}
namespace isa_v4 {
extern const RefineTable refine_table;
}

}  // namespace gptq
