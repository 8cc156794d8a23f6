#pragma once

#include <vector>

#include "tools/bench/kernel_bench.h"

/// Data of kernel_bench: random, or poison.
namespace gptq::bench {

/// A matrix and its memory.
struct DeviceMatrix {
  DeviceBuffer buffer;
  Matrix matrix;
};

/// Normal values of deviation `scale`. They come from a pool of 2^20 whose length no width divides, so the
/// rows are all different (up to 131,071 of them).
DeviceMatrix random_matrix(const Bench& bench, DType dtype, std::int64_t rows, std::int64_t cols,
                           float scale = 1);
/// The same in host memory that the device copies at full speed.
DeviceMatrix random_host_matrix(const Bench& bench, DType dtype, std::int64_t rows, std::int64_t cols,
                                float scale = 1);
/// All bytes 0xFF: NaN in every floating type.
DeviceMatrix poisoned_matrix(const Bench& bench, DType dtype, std::int64_t rows, std::int64_t cols);

/// Rows of samples of the shapes' length, one behind the other; the last may be shorter.
Batch batch_of(const Bench& bench, std::int64_t rows);

std::vector<float> random_floats(std::size_t count, float scale);
std::vector<std::int32_t> random_ids(std::size_t count, std::int64_t below);

/// The last elements of the last row, at most 64.
std::vector<float> tail_of(const Bench& bench, const Matrix& matrix);

std::string shape_text(std::initializer_list<std::int64_t> sizes);  ///< "8192x4096x4096"

}  // namespace gptq::bench
