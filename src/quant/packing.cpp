#include "quant/packing.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "config/output_format.h"

namespace gptq {
namespace {

/// Some of a field's bits, and where 32 fields have theirs among their words.
struct Plane {
  int width = 0;   ///< bits
  int offset = 0;  ///< of its lowest bit in the field, and of its first word in the words of 32 fields
};

/// The widths are powers of two, the widest first: 7 = 4 + 2 + 1.
std::vector<Plane> planes_of(int bits, CheckpointFormat format) {
  if (format != CheckpointFormat::gptq_p) return {{bits, 0}};
  std::vector<Plane> planes;
  for (int width = 8, offset = 0; width > 0; width /= 2) {
    if (offset + width > bits) continue;
    planes.push_back({width, offset});
    offset += width;
  }
  return planes;
}

/// A row of 32-bit words read and written as fields, low bits first.
class FieldStream {
 public:
  /// word i of the stream is words[i * stride]
  FieldStream(std::uint32_t* words, std::int64_t stride, int bits, std::span<const Plane> planes)
      : words_(words), stride_(stride), bits_(bits), planes_(planes) {}

  void put(std::int64_t index, std::uint32_t value) {
    for (const Plane& plane : planes_) put_bits(bit_of(index, plane), plane.width, value >> plane.offset);
  }

  std::uint32_t get(std::int64_t index) const {
    std::uint32_t value = 0;
    for (const Plane& plane : planes_) value |= get_bits(bit_of(index, plane), plane.width) << plane.offset;
    return value;
  }

 private:
  /// For a single plane that is index · bits.
  std::int64_t bit_of(std::int64_t index, const Plane& plane) const {
    return index / 32 * 32 * bits_ + 32 * plane.offset + index % 32 * plane.width;
  }

  void put_bits(std::int64_t bit, int width, std::uint32_t value) {
    value &= mask(width);
    const int shift = static_cast<int>(bit % 32);
    word(bit / 32) |= value << shift;
    if (shift + width > 32) word(bit / 32 + 1) |= value >> (32 - shift);
  }

  std::uint32_t get_bits(std::int64_t bit, int width) const {
    const int shift = static_cast<int>(bit % 32);
    std::uint32_t value = word(bit / 32) >> shift;
    if (shift + width > 32) value |= word(bit / 32 + 1) << (32 - shift);
    return value & mask(width);
  }

  static std::uint32_t mask(int width) { return (1u << width) - 1u; }
  std::uint32_t& word(std::int64_t i) const { return words_[i * stride_]; }

  std::uint32_t* words_;
  std::int64_t stride_;
  int bits_;
  std::span<const Plane> planes_;
};

template <typename T>
T* data_of(const HostTensor& tensor) {
  return reinterpret_cast<T*>(tensor.storage.data());
}

HostTensor zeroed(DType dtype, std::vector<std::int64_t> shape) {
  HostTensor tensor = make_tensor(dtype, std::move(shape));
  if (tensor.storage.size() > 0) std::memset(tensor.storage.data(), 0, tensor.storage.size());
  return tensor;
}

bool has_shape(const HostTensor& tensor, DType dtype, std::int64_t rows, std::int64_t cols) {
  return tensor.dtype == dtype && tensor.shape == std::vector<std::int64_t>{rows, cols};
}

void check(const QuantizedLayer& layer, CheckpointFormat format) {
  const auto out = static_cast<std::size_t>(layer.out_features);
  const auto in = static_cast<std::size_t>(layer.in_features);
  const auto groups = static_cast<std::size_t>(layer.groups);
  GPTQ_EXPECT(can_hold(format, layer.bits));
  GPTQ_EXPECT(layer.codes.size() == out * in);
  GPTQ_EXPECT(layer.scales.size() == out * groups && layer.zeros.size() == out * groups);
  GPTQ_EXPECT(layer.group_of.size() == in);
}

/// Columns that share a whole number of words: one word for 2, 4 and 8 bits, `bits` words otherwise.
std::int64_t word_group(int bits) {
  return 32 % bits == 0 ? 32 / bits : 32;
}

// 32 output rows at a time keep the words being filled and the codes being read in the cache.
void pack_codes(const QuantizedLayer& layer, std::span<const Plane> planes, std::uint32_t* words) {
  constexpr std::int64_t kTile = 32;
  for (std::int64_t first = 0; first < layer.in_features; first += kTile) {
    const std::int64_t last = std::min(first + kTile, layer.in_features);
    for (std::int64_t row = 0; row < layer.out_features; ++row) {
      FieldStream stream(words + row, layer.out_features, layer.bits, planes);
      const std::uint8_t* codes = layer.codes.data() + row * layer.in_features;
      for (std::int64_t column = first; column < last; ++column) stream.put(column, codes[column]);
    }
  }
}

void unpack_codes(std::uint32_t* words, std::span<const Plane> planes, QuantizedLayer& layer) {
  for (std::int64_t row = 0; row < layer.out_features; ++row) {
    const FieldStream stream(words + row, layer.out_features, layer.bits, planes);
    std::uint8_t* codes = layer.codes.data() + row * layer.in_features;
    for (std::int64_t column = 0; column < layer.in_features; ++column)
      codes[column] = static_cast<std::uint8_t>(stream.get(column));
  }
}

}  // namespace

std::int64_t packed_words(std::int64_t count, int bits) {
  const std::int64_t columns = word_group(bits);
  return (count + columns - 1) / columns * (columns * bits / 32);
}

std::optional<CheckpointFormat> find_checkpoint_format(std::string_view name) {
  for (const auto format : {CheckpointFormat::gptq, CheckpointFormat::gptq_v2, CheckpointFormat::gptq_p}) {
    if (name == name_of(format)) return format;
  }
  return std::nullopt;
}

std::string_view name_of(CheckpointFormat format) {
  switch (format) {
    case CheckpointFormat::gptq:
      return "gptq";
    case CheckpointFormat::gptq_v2:
      return "gptq_v2";
    case CheckpointFormat::gptq_p:
      return "gptq_p";
  }
  return "";
}

bool can_hold(CheckpointFormat format, int bits) {
  return bits >= 2 && bits <= 8 && (!needs_planes(bits) || format == CheckpointFormat::gptq_p);
}

PackedLayer pack(const QuantizedLayer& layer, CheckpointFormat format) {
  check(layer, format);
  const std::vector<Plane> planes = planes_of(layer.bits, format);
  const std::uint32_t less = format == CheckpointFormat::gptq ? 1u : 0u;  // what zeros are stored minus
  const std::uint32_t mask = (1u << layer.bits) - 1u;
  const std::int64_t out = layer.out_features;
  const std::int64_t zero_words = packed_words(out, layer.bits);
  PackedLayer packed{zeroed(DType::i32, {packed_words(layer.in_features, layer.bits), out}),
                     zeroed(DType::i32, {layer.groups, zero_words}), zeroed(DType::f16, {layer.groups, out}),
                     zeroed(DType::i32, {layer.in_features})};
  pack_codes(layer, planes, data_of<std::uint32_t>(packed.qweight));
  for (std::int64_t group = 0; group < layer.groups; ++group) {
    FieldStream zeros(data_of<std::uint32_t>(packed.qzeros) + group * zero_words, 1, layer.bits, planes);
    f16* scales = data_of<f16>(packed.scales) + group * out;
    for (std::int64_t row = 0; row < out; ++row) {
      const std::uint32_t zero = layer.zeros[static_cast<std::size_t>(row * layer.groups + group)];
      zeros.put(row, (zero - less) & mask);
      scales[row] = layer.scales[static_cast<std::size_t>(row * layer.groups + group)];
    }
  }
  if (layer.in_features > 0)
    std::memcpy(packed.g_idx.storage.data(), layer.group_of.data(),
                layer.group_of.size() * sizeof(std::int32_t));
  return packed;
}

QuantizedLayer unpack(const PackedLayer& packed, int bits, CheckpointFormat format) {
  GPTQ_EXPECT(can_hold(format, bits));
  const std::vector<Plane> planes = planes_of(bits, format);
  const std::uint32_t less = format == CheckpointFormat::gptq ? 1u : 0u;
  GPTQ_EXPECT(packed.g_idx.dtype == DType::i32 && packed.g_idx.shape.size() == 1);
  GPTQ_EXPECT(packed.scales.dtype == DType::f16 && packed.scales.shape.size() == 2);
  QuantizedLayer layer;
  layer.bits = bits;
  layer.in_features = packed.g_idx.shape[0];
  layer.groups = packed.scales.shape[0];
  layer.out_features = packed.scales.shape[1];
  const std::int64_t zero_words = packed_words(layer.out_features, bits);
  GPTQ_EXPECT(
      has_shape(packed.qweight, DType::i32, packed_words(layer.in_features, bits), layer.out_features));
  GPTQ_EXPECT(has_shape(packed.qzeros, DType::i32, layer.groups, zero_words));

  const auto* group_of = data_of<std::int32_t>(packed.g_idx);
  layer.group_of.assign(group_of, group_of + layer.in_features);
  layer.codes.resize(static_cast<std::size_t>(layer.out_features * layer.in_features));
  layer.scales.resize(static_cast<std::size_t>(layer.out_features * layer.groups));
  layer.zeros.resize(layer.scales.size());
  unpack_codes(data_of<std::uint32_t>(packed.qweight), planes, layer);
  const std::uint32_t mask = (1u << bits) - 1u;
  for (std::int64_t group = 0; group < layer.groups; ++group) {
    const FieldStream zeros(data_of<std::uint32_t>(packed.qzeros) + group * zero_words, 1, bits, planes);
    const f16* scales = data_of<f16>(packed.scales) + group * layer.out_features;
    for (std::int64_t row = 0; row < layer.out_features; ++row) {
      const auto place = static_cast<std::size_t>(row * layer.groups + group);
      layer.zeros[place] = static_cast<std::uint8_t>((zeros.get(row) + less) & mask);
      layer.scales[place] = scales[row];
    }
  }
  return layer;
}

}  // namespace gptq
