#include "quant/quantized_layer.h"

#include <algorithm>

#include "base/error.h"
#include "quant/byte_stream.h"

namespace gptq {

void sort_by_block(std::vector<LayerStatistics>& layers) {
  std::stable_sort(layers.begin(), layers.end(),
                   [](const LayerStatistics& a, const LayerStatistics& b) { return a.block < b.block; });
}

QuantizedWeights weights_of(const QuantizedLayer& layer) {
  return {layer.out_features,  layer.in_features,  layer.groups,         layer.codes.data(),
          layer.scales.data(), layer.zeros.data(), layer.group_of.data()};
}

std::vector<RowRange> rows_of_rank(const std::vector<std::int64_t>& out_features, int rank, int ranks) {
  GPTQ_EXPECT(ranks > 0 && rank >= 0 && rank < ranks);
  constexpr std::int64_t panel = SolveOptions::kPanelRows;
  const auto panels_of = [](std::int64_t rows) { return (rows + panel - 1) / panel; };
  std::int64_t total = 0;
  for (const std::int64_t rows : out_features) total += panels_of(rows);
  const std::int64_t begin = total * rank / ranks;
  const std::int64_t end = total * (rank + 1) / ranks;

  std::vector<RowRange> ranges;
  std::int64_t layer_begin = 0;  // index of the layer's first panel in the stage group
  for (std::size_t layer = 0; layer < out_features.size(); ++layer) {
    const std::int64_t panels = panels_of(out_features[layer]);
    const std::int64_t first = std::clamp<std::int64_t>(begin - layer_begin, 0, panels) * panel;
    const std::int64_t last =
        std::min(std::clamp<std::int64_t>(end - layer_begin, 0, panels) * panel, out_features[layer]);
    if (first < last) ranges.push_back({static_cast<std::int64_t>(layer), first, last - first});
    layer_begin += panels;
  }
  return ranges;
}

std::vector<std::byte> serialize(const SolvedRows& solved) {
  GPTQ_EXPECT(solved.ranges.size() == solved.rows.size());
  ByteWriter writer;
  writer.vector(solved.ranges);
  for (const QuantizedRows& part : solved.rows) {
    writer.value(part.rows);
    writer.vector(part.codes);
    writer.vector(part.scales);
    writer.vector(part.zeros);
    for (const auto* numbers : {&part.solve_loss, &part.solve_error, &part.output_error, &part.output_norm,
                                &part.weight_error, &part.weight_norm})
      writer.vector(*numbers);
  }
  return writer.take();
}

SolvedRows deserialize_rows(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  SolvedRows solved;
  solved.ranges = reader.vector<RowRange>();
  for (const RowRange& range : solved.ranges) {
    QuantizedRows part;
    part.rows = reader.value<std::int64_t>();
    GPTQ_EXPECT(part.rows == range.count);
    part.codes = reader.vector<std::uint8_t>();
    part.scales = reader.vector<f16>();
    part.zeros = reader.vector<std::uint8_t>();
    for (auto* numbers : {&part.solve_loss, &part.solve_error, &part.output_error, &part.output_norm,
                          &part.weight_error, &part.weight_norm}) {
      *numbers = reader.vector<double>();
      GPTQ_EXPECT(static_cast<std::int64_t>(numbers->size()) == part.rows);
    }
    solved.rows.push_back(std::move(part));
  }
  reader.expect_end();
  return solved;
}

}  // namespace gptq
