#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

/// Private to kernels: what the solves of all backends share; above all, in which pieces the columns of one
/// solve are visited.
namespace gptq {

/// Columns of a batch between two moments at which all of them must be up to date. Positions count visited
/// columns.
struct SolveSegment {
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t search_count = 0;  ///< > 0: a group of so many columns starts here, and its scale is sought
};

struct SolveBatch {
  std::int64_t first = 0;
  std::int64_t count = 0;  ///< <= SolveOptions::kColumnBatch
  std::vector<SolveSegment> segments;
};

/// Whether a scale search judges either whole number beside the ideal zero. With four levels the zero is a
/// choice of two orientations; with more levels the other one gained nothing. As GPTQModel 7.7.
inline bool judges_two_zeros(const SolveOptions& options) {
  return !options.sym && options.max_code() == 3 && options.search != SolveOptions::Search::minmax;
}

/// Results of the right sizes, all zeros.
QuantizedRows make_quantized_rows(std::int64_t rows, const SolveColumns& columns);

/// Borrows its arguments.
struct SolveSchedule {
  SolveSchedule(const SolveColumns& columns, const SolveOptions& options);

  const SolveColumns& columns;
  const SolveOptions& options;

  std::vector<SolveBatch> batches;
  std::vector<std::int32_t> position;  ///< position[column]: when it is visited
  std::vector<std::int32_t> group;     ///< by position
  std::vector<float> weight;           ///< by position; the largest of each group is 1
  std::vector<float> shrink;           ///< the search's candidates: fractions of the full range, with
                                       ///< two_zeros each twice: the nearest zero, the second nearest
  std::vector<std::vector<std::int32_t>>
      group_positions;  ///< of each group, in column order; only without refit
  std::int64_t widest_search =
      0;  ///< columns of the widest group whose values must be copied or solved ahead
  int max_code = 0;
  bool two_zeros = false;

 private:
  void find_positions();
  void make_weights();
  void make_batches();
  void make_fixed_batches();
};

}  // namespace gptq
