#include <gtest/gtest.h>

#include <random>
#include <string>

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

using enum CheckpointFormat;

struct PackingCase {
  CheckpointFormat format;
  int bits;
};

std::vector<PackingCase> all_cases() {
  std::vector<PackingCase> cases;
  for (const auto format : {CheckpointFormat::gptq, gptq_v2, gptq_p}) {
    for (int bits = 2; bits <= 8; ++bits)
      if (can_hold(format, bits)) cases.push_back({format, bits});
  }
  return cases;
}

class Packing : public ::testing::TestWithParam<PackingCase> {
 protected:
  CheckpointFormat format_ = GetParam().format;
  int bits_ = GetParam().bits;

  std::uint32_t expected_word(const std::vector<int>& fields, std::int64_t word) const {
    return format_ == gptq_p ? reference::packed_plane_word(fields, bits_, word)
                             : reference::packed_word(fields, bits_, word);
  }

  int stored_zero(int zero) const {
    return format_ == CheckpointFormat::gptq ? (zero + (1 << bits_) - 1) % (1 << bits_) : zero;
  }
};
INSTANTIATE_TEST_SUITE_P(All, Packing, ::testing::ValuesIn(all_cases()), [](const auto& test) {
  return std::string(name_of(test.param.format)) + "_" + std::to_string(test.param.bits);
});

TEST_P(Packing, EveryWordIsTheNaiveOne) {
  const QuantizedLayer layer = random_layer(33, 70, 3, bits_, 1);
  const PackedLayer packed = pack(layer, format_);
  ASSERT_EQ(packed.qweight.shape, (std::vector<std::int64_t>{packed_words(70, bits_), 33}));
  for (std::int64_t row = 0; row < 33; ++row) {
    const std::vector<int> codes(layer.codes.begin() + row * 70, layer.codes.begin() + (row + 1) * 70);
    for (std::int64_t word = 0; word < packed_words(70, bits_); ++word)
      EXPECT_EQ(words_of(packed.qweight)[word * 33 + row], expected_word(codes, word));
  }
  ASSERT_EQ(packed.qzeros.shape, (std::vector<std::int64_t>{3, packed_words(33, bits_)}));
  for (std::int64_t group = 0; group < 3; ++group) {
    std::vector<int> zeros;
    for (std::int64_t row = 0; row < 33; ++row)
      zeros.push_back(stored_zero(layer.zeros[static_cast<std::size_t>(row * 3 + group)]));
    for (std::int64_t word = 0; word < packed_words(33, bits_); ++word)
      EXPECT_EQ(words_of(packed.qzeros)[group * packed_words(33, bits_) + word], expected_word(zeros, word));
  }
}

TEST_P(Packing, UnpackIsTheInverse) {
  for (const auto& [out, in] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {64, 128}, {31, 33}, {7, 257}}) {
    const QuantizedLayer layer = random_layer(out, in, 2, bits_, 2);
    const QuantizedLayer back = unpack(pack(layer, format_), bits_, format_);
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

TEST(PackingFormat, OnlyPlanesHoldFiveSixAndSevenBits) {
  for (const auto format : {CheckpointFormat::gptq, gptq_v2}) {
    for (const int bits : {2, 3, 4, 8}) EXPECT_TRUE(can_hold(format, bits));
    for (const int bits : {0, 1, 5, 6, 7, 9}) {
      EXPECT_FALSE(can_hold(format, bits));
      if (bits >= 5 && bits <= 7) {
        EXPECT_THROW(pack(random_layer(4, 8, 1, bits, 5), format), Error);
      }
    }
  }
  for (const int bits : {2, 3, 4, 5, 6, 7, 8}) EXPECT_TRUE(can_hold(gptq_p, bits));
  EXPECT_FALSE(can_hold(gptq_p, 1));
  EXPECT_FALSE(can_hold(gptq_p, 9));
}

TEST(PackingFormat, NamesAndBack) {
  for (const auto format : {CheckpointFormat::gptq, gptq_v2, gptq_p})
    EXPECT_EQ(find_checkpoint_format(name_of(format)), format);
  EXPECT_EQ(find_checkpoint_format("marlin"), std::nullopt);
  EXPECT_EQ(find_checkpoint_format(""), std::nullopt);
}

TEST(PackingFormat, KnownWords) {
  QuantizedLayer layer = random_layer(8, 8, 1, 4, 3);
  std::fill(layer.zeros.begin(), layer.zeros.end(), std::uint8_t{8});
  for (std::size_t k = 0; k < 64; ++k) layer.codes[k] = static_cast<std::uint8_t>(k % 8);
  for (const auto format : {CheckpointFormat::gptq, gptq_v2, gptq_p}) {
    const PackedLayer packed = pack(layer, format);
    EXPECT_EQ(words_of(packed.qzeros)[0], format == CheckpointFormat::gptq ? 0x77777777u : 0x88888888u);
    EXPECT_EQ(words_of(packed.qweight)[0], 0x76543210u);
  }
}

QuantizedLayer two_codes_of_32() {
  QuantizedLayer layer = random_layer(1, 32, 1, 3, 4);
  std::fill(layer.codes.begin(), layer.codes.end(), std::uint8_t{0});
  layer.codes[10] = 5;  // 101
  layer.codes[21] = 6;  // 110
  return layer;
}

// Codes 10 and 21 of 32 three-bit codes lie across words, in both formats that every loader of 3 bits reads.
TEST(PackingFormat, ThreeBitCodesCrossWords) {
  for (const auto format : {CheckpointFormat::gptq, gptq_v2}) {
    const PackedLayer packed = pack(two_codes_of_32(), format);
    EXPECT_EQ(words_of(packed.qweight)[0], 1u << 30);
    EXPECT_EQ(words_of(packed.qweight)[1], 1u);
    EXPECT_EQ(words_of(packed.qweight)[2], 3u);
    EXPECT_EQ(unpack(packed, 3, format).codes, two_codes_of_32().codes);
  }
}

TEST(PackingFormat, ThreeBitCodesInPlanesCrossNone) {
  const PackedLayer packed = pack(two_codes_of_32(), gptq_p);
  EXPECT_EQ(words_of(packed.qweight)[0], 1u << 20) << "low bits 01 of code 10";
  EXPECT_EQ(words_of(packed.qweight)[1], 2u << 10) << "low bits 10 of code 21, the sixth of the second word";
  EXPECT_EQ(words_of(packed.qweight)[2], 1u << 10 | 1u << 21) << "the high bits of both";
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
  PackedLayer packed = pack(layer, CheckpointFormat::gptq);
  EXPECT_THROW(unpack(packed, 8, CheckpointFormat::gptq), Error);
  EXPECT_THROW(unpack(packed, 5, CheckpointFormat::gptq), Error);
  layer.codes.pop_back();
  EXPECT_THROW(pack(layer, CheckpointFormat::gptq), Error);
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
