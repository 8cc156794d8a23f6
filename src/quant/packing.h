#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// How codes and zeros become int32 words (checkpoint_format).
enum class CheckpointFormat {
  gptq,     ///< one dense stream of fields, low bits first; zeros are stored minus one (modulo 2^bits)
  gptq_v2,  ///< the same with the zeros themselves
  gptq_p    ///< the zeros themselves; fields are split into planes whose widths divide 32 (GPTQModel 7)
};
/// "gptq", "gptq_v2" or "gptq_p"; nothing for another name.
std::optional<CheckpointFormat> find_checkpoint_format(std::string_view name);
std::string_view name_of(CheckpointFormat format);

/// Whether a format has a place for codes of so many bits: 2, 3, 4 and 8 in all; 5, 6 and 7 in gptq_p alone,
/// since no loader knows another form of theirs: GPTQModel takes them for planes whatever the format is
/// called, others refuse them.
bool can_hold(CheckpointFormat format, int bits);

/// A layer in the GPTQ checkpoint's layout (PEERS: qweight int32 [in·bits/32, out], low bits first along in;
/// qzeros int32 [groups, out·bits/32]; scales f16 [groups, out]; g_idx int32 [in]). 32 fields of 3, 5, 6 or 7
/// bits fill `bits` words: as one stream, or (gptq_p) as planes, one after the other: 3 = 2 + 1 bits, 5 = 4 +
/// 1, 6 = 4 + 2, 7 = 4 + 2 + 1, the low bits first; a plane of w bits fills w words with 32/w fields each.
struct PackedLayer {
  HostTensor qweight, qzeros, scales, g_idx;
};

/// in_features is padded up to a full word group with code 0; out likewise for the zeros. The format must be
/// able to hold the layer's bits.
PackedLayer pack(const QuantizedLayer& layer, CheckpointFormat format);

/// Inverse of pack. in_features comes from g_idx's length.
QuantizedLayer unpack(const PackedLayer& packed, int bits, CheckpointFormat format);

/// Rows of int32 words that hold `count` codes of `bits` bits.
std::int64_t packed_words(std::int64_t count, int bits);

}  // namespace gptq
