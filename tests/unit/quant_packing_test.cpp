#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "quant/packing.h"
#include "support/reference_quant.h"

namespace gptq {
namespace {

QuantizedLayer random_layer(std::int64_t out, std::int64_t in, std::int64_t groups, int bits, unsigned seed) {
  std::mt19937 generator(seed);
  QuantizedLayer layer;
  layer.out_features = out;
  layer.in_features = in;
  layer.groups = groups;
  layer.bits = bits;
  const auto random = [&](std::uint32_t below) { return static_cast<std::uint32_t>(generator() % below); };
  for (std::int64_t k = 0; k < out * in; ++k)
    layer.codes.push_back(static_cast<std::uint8_t>(random(1u << bits)));
  for (std::int64_t k = 0; k < out * groups; ++k) {
    layer.zeros.push_back(static_cast<std::uint8_t>(random(1u << bits)));
    layer.scales.push_back(to_f16(0.001f * static_cast<float>(1 + random(1000))));
  }
  for (std::int64_t c = 0; c < in; ++c)
    layer.group_of.push_back(static_cast<std::int32_t>(random(static_cast<std::uint32_t>(groups))));
  return layer;
}

const std::uint32_t* words_of(const HostTensor& tensor) {
  return reinterpret_cast<const std::uint32_t*>(tensor.storage.data());
}

class Packing : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(AllBits, Packing, ::testing::Values(2, 3, 4, 5, 6, 7, 8));

TEST_P(Packing, WordsFollowTheStreamBitByBit) {
  const int bits = GetParam();
  const QuantizedLayer layer = random_layer(33, 70, 3, bits, 1);
  for (const bool v2 : {false, true}) {
    const PackedLayer packed = pack(layer, v2);
    ASSERT_EQ(packed.qweight.shape, (std::vector<std::int64_t>{packed_words(70, bits), 33}));
    for (std::int64_t row = 0; row < 33; ++row) {
      const std::vector<int> codes(layer.codes.begin() + row * 70, layer.codes.begin() + (row + 1) * 70);
      for (std::int64_t word = 0; word < packed_words(70, bits); ++word)
        EXPECT_EQ(words_of(packed.qweight)[word * 33 + row], reference::packed_word(codes, bits, word));
    }
    ASSERT_EQ(packed.qzeros.shape, (std::vector<std::int64_t>{3, packed_words(33, bits)}));
    for (std::int64_t group = 0; group < 3; ++group) {
      std::vector<int> zeros;
      for (std::int64_t row = 0; row < 33; ++row) {
        const int zero = layer.zeros[static_cast<std::size_t>(row * 3 + group)];
        zeros.push_back(v2 ? zero : (zero + (1 << bits) - 1) % (1 << bits));
      }
      for (std::int64_t word = 0; word < packed_words(33, bits); ++word)
        EXPECT_EQ(words_of(packed.qzeros)[group * packed_words(33, bits) + word],
                  reference::packed_word(zeros, bits, word));
    }
  }
}

TEST_P(Packing, UnpackIsTheInverse) {
  const int bits = GetParam();
  for (const auto& [out, in] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {64, 128}, {31, 33}, {7, 257}}) {
    const QuantizedLayer layer = random_layer(out, in, 2, bits, 2);
    for (const bool v2 : {false, true}) {
      const QuantizedLayer back = unpack(pack(layer, v2), bits, v2);
      EXPECT_EQ(back.codes, layer.codes);
      EXPECT_EQ(back.zeros, layer.zeros);
      EXPECT_EQ(back.group_of, layer.group_of);
      ASSERT_EQ(back.scales.size(), layer.scales.size());
      for (std::size_t k = 0; k < layer.scales.size(); ++k)
        EXPECT_EQ(back.scales[k].bits, layer.scales[k].bits);
      EXPECT_EQ(back.out_features, out);
      EXPECT_EQ(back.in_features, in);
      EXPECT_EQ(back.groups, 2);
    }
  }
}

TEST(PackingFormat, KnownWords) {
  QuantizedLayer layer = random_layer(8, 8, 1, 4, 3);
  std::fill(layer.zeros.begin(), layer.zeros.end(), std::uint8_t{8});
  for (std::size_t k = 0; k < 64; ++k) layer.codes[k] = static_cast<std::uint8_t>(k % 8);
  const PackedLayer packed = pack(layer, false);
  EXPECT_EQ(words_of(packed.qzeros)[0], 0x77777777u);
  EXPECT_EQ(words_of(packed.qweight)[0], 0x76543210u);
  EXPECT_EQ(words_of(pack(layer, true).qzeros)[0], 0x88888888u);
}

// Codes 10 and 21 of 32 three-bit codes lie across words.
TEST(PackingFormat, ThreeBitCodesCrossWords) {
  QuantizedLayer layer = random_layer(1, 32, 1, 3, 4);
  std::fill(layer.codes.begin(), layer.codes.end(), std::uint8_t{0});
  layer.codes[10] = 5;  // 101
  layer.codes[21] = 6;  // 110
  const PackedLayer packed = pack(layer, true);
  EXPECT_EQ(words_of(packed.qweight)[0], 1u << 30);
  EXPECT_EQ(words_of(packed.qweight)[1], 1u);
  EXPECT_EQ(words_of(packed.qweight)[2], 3u);
}

TEST(PackingFormat, WordsRoundUpToWholeGroups) {
  EXPECT_EQ(packed_words(128, 4), 16);
  EXPECT_EQ(packed_words(9, 4), 2);
  EXPECT_EQ(packed_words(32, 3), 3);
  EXPECT_EQ(packed_words(33, 3), 6);
  EXPECT_EQ(packed_words(5, 8), 2);
  EXPECT_EQ(packed_words(0, 2), 0);
}

TEST(PackingFormat, WrongSizesAreInternalErrors) {
  QuantizedLayer layer = random_layer(4, 8, 1, 4, 5);
  PackedLayer packed = pack(layer, false);
  EXPECT_THROW(unpack(packed, 8, false), Error);
  layer.codes.pop_back();
  EXPECT_THROW(pack(layer, false), Error);
}

TEST(Dequantize, IsScaleTimesCodeMinusZero) {
  const QuantizedLayer layer = random_layer(5, 12, 3, 4, 6);
  const HostTensor weights = dequantize(weights_of(layer));
  ASSERT_EQ(weights.shape, (std::vector<std::int64_t>{5, 12}));
  for (std::int64_t row = 0; row < 5; ++row) {
    for (std::int64_t c = 0; c < 12; ++c) {
      const auto place = static_cast<std::size_t>(row * 3 + layer.group_of[static_cast<std::size_t>(c)]);
      const int steps = layer.codes[static_cast<std::size_t>(row * 12 + c)] - layer.zeros[place];
      EXPECT_EQ(weights.matrix().row<float>(row)[c],
                to_float(layer.scales[place]) * static_cast<float>(steps));
    }
  }
}

}  // namespace
}  // namespace gptq
