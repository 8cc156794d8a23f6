#include "pipeline/own_rows.h"

#include <cstring>
#include <span>

#include "base/error.h"
#include "quant/recipe.h"

namespace gptq {
namespace {

std::vector<std::int64_t> rows_of(const std::vector<LayerToQuantize>& layers) {
  std::vector<std::int64_t> rows;
  for (const LayerToQuantize& layer : layers) rows.push_back(layer.rows());
  return rows;
}

std::size_t bytes_of_row(const Matrix& weight) {
  return static_cast<std::size_t>(weight.cols) * size_of(weight.dtype);
}

}  // namespace

OwnRows::OwnRows(const Team& team, const std::vector<LayerToQuantize>& layers)
    : ranges_(rows_of_rank(rows_of(layers), team.comm.rank(), team.comm.size())) {
  if (team.has_helpers()) receive_weights(team, layers);
  for (const RowRange& range : ranges_) {
    const auto index = static_cast<std::size_t>(range.layer);
    const LayerToQuantize& layer = layers[index];
    RowsToSolve part;
    part.weight = layer.weight != nullptr ? layer.weight->matrix().rows_from(range.first, range.count)
                                          : received_[index].matrix();
    part.prepared = layer.prepared;
    part.first_row = range.first;
    parts_.push_back(part);
  }
}

/// The rows of a layer that one rank solves lie together, so they leave from where they are.
void OwnRows::receive_weights(const Team& team, const std::vector<LayerToQuantize>& layers) {
  const auto ranks = static_cast<std::size_t>(team.comm.size());
  std::vector<std::vector<RowRange>> of_rank;
  for (std::size_t rank = 0; rank < ranks; ++rank)
    of_rank.push_back(rows_of_rank(rows_of(layers), static_cast<int>(rank), team.comm.size()));
  received_.resize(layers.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerToQuantize& layer = layers[i];
    auto dtype = layer.weight != nullptr ? layer.weight->dtype : DType::f32;
    team.comm.broadcast(&dtype, sizeof(dtype), team.root);
    std::vector<std::span<const std::byte>> parts(ranks);
    std::int64_t own = 0;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      if (!team.helps(static_cast<int>(rank))) continue;
      for (const RowRange& range : of_rank[rank]) {
        if (range.layer != static_cast<std::int64_t>(i)) continue;
        if (static_cast<int>(rank) == team.comm.rank()) own = range.count;
        if (!team.is_root()) continue;
        const Matrix rows = layer.weight->matrix().rows_from(range.first, range.count);
        GPTQ_EXPECT(rows.stride == rows.cols && parts[rank].empty());
        parts[rank] = {static_cast<const std::byte*>(rows.data),
                       static_cast<std::size_t>(rows.rows) * bytes_of_row(rows)};
      }
    }
    const std::vector<std::byte> mine = team.comm.scatter(parts, team.root);
    if (!team.helps(team.comm.rank())) continue;
    received_[i] = make_tensor(dtype, {own, layer.columns()});
    GPTQ_EXPECT(mine.size() == static_cast<std::size_t>(own) * bytes_of_row(received_[i].matrix()));
    if (!mine.empty()) std::memcpy(received_[i].storage.data(), mine.data(), mine.size());
  }
}

void OwnRows::give_tensor_scales(const Team& team, const std::vector<LayerToQuantize>& layers,
                                 const QuantizationSection& section, const SolveColumns& columns,
                                 int threads) {
  std::vector<TensorScale> scales(layers.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].weight == nullptr) continue;
    scales[i] =
        find_tensor_scale(layers[i].weight->matrix(), columns.weight, solve_options(section), threads);
  }
  if (team.has_helpers()) team.comm.broadcast(scales.data(), scales.size() * sizeof(TensorScale), team.root);
  for (std::size_t i = 0; i < layers.size(); ++i) given_.push_back(repeated(scales[i], layers[i].rows()));
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const GivenScales& given = given_[static_cast<std::size_t>(ranges_[i].layer)];
    parts_[i].scales = given.scales.data() + ranges_[i].first;
    parts_[i].zeros = given.zeros.data() + ranges_[i].first;
  }
}

}  // namespace gptq
