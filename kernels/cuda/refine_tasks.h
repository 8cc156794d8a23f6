#pragma once

#include "kernels/cuda/solve_tasks.h"

/// Private to the refinement: what its kernels are told, and the functions that start them in the compute
/// stream. Matrices lie as in the solve (solve_tasks.h). With g = (w−q)·H a step d of the value at column j
/// changes a row's objective (w−q)·H·(w−q)ᵀ by d²·H_jj − 2d·g_j, and g by −d·H_j.
namespace gptq::cuda {

/// One column batch of all rows of a slice.
struct RefineBatchTask {
  std::int64_t rows = 0;
  int count = 0;                     ///< columns of the batch
  const float* gradient = nullptr;   ///< (count, rows): g
  const float* h = nullptr;          ///< (count, count): the batch's block of H
  std::int64_t stride = 0;           ///< of h
  const SolvePart* parts = nullptr;  ///< device (part_count); `search`: a whole group
  int part_count = 0;
  int rescale = 0;              ///< fit the scale of whole groups
  int scattered = 0;            ///< a part's columns may have different scales
  const int* group = nullptr;   ///< (count)
  float* scale = nullptr;       ///< in/out (groups, rows)
  const float* zero = nullptr;  ///< (groups, rows)
  int max_code = 0;
  std::uint8_t* codes = nullptr;  ///< in/out (count, rows)
  float* steps = nullptr;         ///< out (128, rows): old value − new value, 0 from `count` on
  int* changed = nullptr;         ///< becomes 1 if any code or scale did
};

/// The scale of one group, whose columns lie in several batches.
struct RefineScaleTask {
  std::int64_t rows = 0, n = 0;
  int width = 0;                   ///< columns of the group
  const int* positions = nullptr;  ///< device (width), rising
  const float* units = nullptr;    ///< (width, rows): code − zero
  const float* product = nullptr;  ///< (n, rows): units·H
  float* gradient = nullptr;       ///< in/out (n, rows)
  float* scale = nullptr;          ///< in/out (rows): of the group
  float* step = nullptr;           ///< out (rows): new scale − old scale
  int* changed = nullptr;
};

/// Sums of a row's columns, one array of doubles (rows) each.
struct RefineFigures {
  double* objective = nullptr;  ///< (w−q)·H·(w−q)ᵀ
  double* terms = nullptr;      ///< Σ (w−q)_j²·H_jj: about as large as the objective's terms
  double* distance = nullptr;   ///< |w−q|²
};

struct RefineCodes {
  std::int64_t rows = 0, n = 0, groups = 0;
  const int* group = nullptr;     ///< (n), by position
  std::uint8_t* codes = nullptr;  ///< (n, rows)
  float* scale = nullptr;         ///< (groups, rows)
  float* zero = nullptr;          ///< (groups, rows)
};

// refine_columns.cu
void refine_columns(const CudaContext& context, const RefineBatchTask& task);

// refine_scale.cu
/// units (width, rows) = code − zero of the columns at `positions`, which are of one group.
void find_units(const CudaContext& context, const RefineCodes& codes, const int* positions, int width,
                int group, float* units);
void rescale_group(const CudaContext& context, const RefineScaleTask& task);

// refine_figures.cu
/// difference (n, rows) = w − q; figures.terms and figures.distance. h: (n, n).
void find_difference(const CudaContext& context, const RefineCodes& codes, const float* w, const float* h,
                     float* difference, const RefineFigures& figures);
/// figures.objective, from difference and gradient (n, rows).
void find_objective(const CudaContext& context, std::int64_t n, std::int64_t rows, const float* difference,
                    const float* gradient, const RefineFigures& figures);
/// Rows whose objective fell by more than `noise` times the larger of both `terms` pass `after` on to
/// `before`; the others get old codes and scales back.
void keep_better(const CudaContext& context, const RefineCodes& codes, const std::uint8_t* old_codes,
                 const float* old_scale, double noise, const RefineFigures& before,
                 const RefineFigures& after, std::uint8_t* better);

}  // namespace gptq::cuda
