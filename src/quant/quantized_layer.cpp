#include "quant/quantized_layer.h"

#include <algorithm>

#include "base/error.h"
#include "quant/byte_stream.h"

namespace gptq {

HostTensor dequantize(const QuantizedLayer& layer) {
  HostTensor weights = make_tensor(DType::f32, {layer.out_features, layer.in_features});
  const Matrix matrix = weights.matrix();
  for (std::int64_t row = 0; row < layer.out_features; ++row) {
    const std::uint8_t* codes = layer.codes.data() + row * layer.in_features;
    const f16* scales = layer.scales.data() + row * layer.groups;
    const std::uint8_t* zeros = layer.zeros.data() + row * layer.groups;
    float* values = matrix.row<float>(row);
    for (std::int64_t column = 0; column < layer.in_features; ++column) {
      const std::int32_t group = layer.group_of[static_cast<std::size_t>(column)];
      values[column] = to_float(scales[group]) * static_cast<float>(codes[column] - zeros[group]);
    }
  }
  return weights;
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

std::vector<std::byte> serialize(const std::vector<RowRange>& ranges,
                                 const std::vector<QuantizedRows>& rows) {
  GPTQ_EXPECT(ranges.size() == rows.size());
  ByteWriter writer;
  writer.vector(ranges);
  for (const QuantizedRows& part : rows) {
    writer.value(part.rows);
    writer.vector(part.codes);
    writer.vector(part.scales);
    writer.vector(part.zeros);
    for (const auto* numbers :
         {&part.solve_loss, &part.output_error, &part.output_norm, &part.weight_error, &part.weight_norm})
      writer.vector(*numbers);
  }
  return writer.take();
}

void deserialize_rows(std::span<const std::byte> bytes, std::vector<RowRange>& ranges,
                      std::vector<QuantizedRows>& rows) {
  ByteReader reader(bytes);
  ranges = reader.vector<RowRange>();
  rows.clear();
  for (const RowRange& range : ranges) {
    QuantizedRows part;
    part.rows = reader.value<std::int64_t>();
    GPTQ_EXPECT(part.rows == range.count);
    part.codes = reader.vector<std::uint8_t>();
    part.scales = reader.vector<f16>();
    part.zeros = reader.vector<std::uint8_t>();
    for (auto* numbers :
         {&part.solve_loss, &part.output_error, &part.output_norm, &part.weight_error, &part.weight_norm}) {
      *numbers = reader.vector<double>();
      GPTQ_EXPECT(static_cast<std::int64_t>(numbers->size()) == part.rows);
    }
    rows.push_back(std::move(part));
  }
  reader.expect_end();
}

}  // namespace gptq
