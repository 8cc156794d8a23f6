#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// A layer in the GPTQ checkpoint's layout (PEERS: qweight int32 [in·bits/32, out], low bits first along in;
/// qzeros int32 [groups, out·bits/32]; scales f16 [groups, out]; g_idx int32 [in]). For 3, 5, 6, 7 bits the
/// codes form one dense bit stream, 32 columns in `bits` words.
struct PackedLayer {
  HostTensor qweight, qzeros, scales, g_idx;
};

/// v1 stores zero − 1 (modulo 2^bits, each field on its own), v2 the zero itself. in_features is padded up to
/// a full word group with code 0; out likewise for the zeros.
PackedLayer pack(const QuantizedLayer& layer, bool v2);

/// Inverse of pack. in_features comes from g_idx's length.
QuantizedLayer unpack(const PackedLayer& packed, int bits, bool v2);

/// Rows of int32 words that hold `count` codes of `bits` bits.
std::int64_t packed_words(std::int64_t count, int bits);

}  // namespace gptq
