#pragma once

#include <vector>

#include "kernels/cpu/packed.h"
#include "kernels/cpu/row_tiles.h"
#include "kernels/kernels.h"

namespace gptq {

/// Weights cut along the outputs into panels, each packed for the library.
class CpuLinear final : public LinearWeights {
 public:
  struct Panel {
    std::int64_t first = 0;  ///< output of its first column
    PackedMatrix weight;     ///< (in, outputs of the panel)
    HostBuffer bias_values;
    dnnl::memory bias;  ///< empty: none
  };

  CpuLinear(std::int64_t in, std::int64_t out, DType compute) : in_(in), out_(out), compute_(compute) {}

  std::int64_t in_features() const override { return in_; }
  std::int64_t out_features() const override { return out_; }
  DType compute() const { return compute_; }
  const std::vector<Panel>& panels() const { return panels_; }
  std::vector<Panel>& panels() { return panels_; }

 private:
  std::int64_t in_;
  std::int64_t out_;
  DType compute_;
  std::vector<Panel> panels_;
};

/// The downcast of our own weights; a contract violation if another backend made them.
const CpuLinear& cpu_linear(const LinearWeights& weights);

/// Rows of a tile as a dense matrix of product_rows(tile.count) rows: x itself where possible, else a copy in
/// this thread's scratch, filled up with zeros.
const void* dense_rows(const Matrix& x, const RowTile& tile);

}  // namespace gptq
