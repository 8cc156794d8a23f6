#include <cmath>
#include <limits>

#include "kernels/forward_fixture.h"

namespace gptq {
namespace {

using reference::Array;

class NormTest : public ForwardKernels {
 protected:
  void rms_norm(const TestMatrix& x, const std::vector<float>& weight, float eps, float offset,
                const TestMatrix& y) const {
    const DeviceBuffer device = test::upload(backend(), weight);
    kernels().rms_norm(x.matrix(), {device.as<const float>(), weight.size()}, eps, offset, y.matrix());
  }
  void head_rms_norm(const TestMatrix& x, const std::vector<float>& weight, float eps, float offset) const {
    const DeviceBuffer device = test::upload(backend(), weight);
    kernels().head_rms_norm(x.matrix(), {device.as<const float>(), weight.size()}, eps, offset);
  }
  static std::vector<float> weights(std::int64_t n) {
    return reference::to_floats(reference::random_array(1, n, DType::f32, 2));
  }
};

TEST_P(NormTest, OfTheResidualStream) {
  for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {70, 37}, {1, 1}, {3, 64}, {5, 1000}, {2, 4096}, {2, 5121}}) {
    for (const View view : kViews) {
      SCOPED_TRACE(testing::Message() << rows << " x " << cols << " from column " << view.columns_before);
      const Array x = reference::random_array(rows, cols, DType::f32, 1, 3.0);
      const TestMatrix input(backend(), x, DType::f32, view);
      const TestMatrix y = poisoned(rows, cols, view);
      rms_norm(input, weights(cols), 1e-5f, 1.0f, y);
      expect_close(y, reference::rms_norm(x, weights(cols), 1e-5, 1.0));
    }
  }
}

TEST_P(NormTest, OfItsOwnType) {
  const HostTensor x = random(9, 130, 3);
  const TestMatrix y = poisoned(9, 130);
  rms_norm(on_device(x), weights(130), 1e-6f, 0.0f, y);
  expect_close(y, reference::rms_norm(reference::from_matrix(x.matrix()), weights(130), 1e-6, 0.0));
}

TEST_P(NormTest, OfZerosIsZeroAndOfNaNIsNaN) {
  Array x(3, 40);
  x.at(1, 7) = NAN;
  const TestMatrix input(backend(), x, DType::f32);
  const TestMatrix y = poisoned(3, 40);
  rms_norm(input, weights(40), 1e-6f, 0.0f, y);
  const Array got = y.array();
  for (std::int64_t c = 0; c < 40; ++c) {
    EXPECT_EQ(got.at(0, c), 0);
    EXPECT_TRUE(std::isnan(got.at(1, c)));
    EXPECT_EQ(got.at(2, c), 0);
  }
}

TEST_P(NormTest, OfEachHead) {
  for (const std::int64_t head_dim : {16, 24, 64, 80, 128, 256}) {
    for (const View view : kViews) {
      SCOPED_TRACE(testing::Message() << "head " << head_dim << " from column " << view.columns_before);
      const HostTensor host = random(9, 3 * head_dim, 3);
      const TestMatrix x = on_device(host, view);
      head_rms_norm(x, weights(head_dim), 1e-6f, 0.0f);
      expect_close(x,
                   reference::rms_norm(reference::from_matrix(host.matrix()), weights(head_dim), 1e-6, 0.0));
    }
  }
}

TEST_P(NormTest, OfNoRowsIsNoWork) {
  const TestMatrix x = poisoned(0, 48), y = poisoned(0, 48);
  rms_norm(x, weights(48), 1e-6f, 0.0f, y);
  head_rms_norm(x, weights(24), 1e-6f, 0.0f);
  backend().synchronize();
}

TEST_P(NormTest, BitsDoNotDependOnWhereTheBatchLies) {
  const HostTensor x = random(20, 33 * 2, 4);
  const TestMatrix first = poisoned(20, 66), second = poisoned(20, 66, {0, 0, 3});
  rms_norm(on_device(x), weights(66), 1e-6f, 0.0f, first);
  rms_norm(on_device(x, {0, 0, 1}), weights(66), 1e-6f, 0.0f, second);
  EXPECT_EQ(first.bytes(), second.bytes());
  const TestMatrix a = on_device(x), b = on_device(x, {0, 0, 1});
  head_rms_norm(a, weights(33), 1e-6f, 0.0f);
  head_rms_norm(b, weights(33), 1e-6f, 0.0f);
  EXPECT_EQ(a.bytes(), b.bytes());
}

GPTQ_FORWARD_SUITE(NormTest);

class RotaryTest : public ForwardKernels {
 protected:
  static RotaryAngles some_angles(std::int64_t positions, std::int64_t rotary_dim) {
    RotaryAngles angles{positions, rotary_dim, {}, {}};
    for (std::int64_t i = 0; i < positions * rotary_dim / 2; ++i) {
      angles.cos.push_back(static_cast<float>(std::cos(0.3 * static_cast<double>(i))));
      angles.sin.push_back(static_cast<float>(std::sin(0.3 * static_cast<double>(i))));
    }
    return angles;
  }
};

TEST_P(RotaryTest, TurnsTheLeadingFeatures) {
  const Batch batch = batch_of({5, 1, 0, 8});
  for (const auto& [head_dim, rotary_dim] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {24, 24}, {24, 10}, {16, 2}, {128, 128}, {256, 64}}) {
    for (const View view : kViews) {
      SCOPED_TRACE(testing::Message()
                   << rotary_dim << " of " << head_dim << " from column " << view.columns_before);
      const RotaryAngles angles = some_angles(9, rotary_dim);
      const DeviceRotary device(backend(), angles);
      const HostTensor host = random(batch.rows(), 3 * head_dim, 5);
      const TestMatrix x = on_device(host, view);
      kernels().rotary(batch, x.matrix(), head_dim, device.table());
      expect_close(x, reference::rotary(batch, reference::from_matrix(host.matrix()), head_dim, angles));
    }
  }
}

TEST_P(RotaryTest, ManySamples) {
  const Batch batch = batch_of(std::vector<std::int64_t>(300, 2));
  const RotaryAngles angles = some_angles(2, 8);
  const DeviceRotary device(backend(), angles);
  const HostTensor host = random(600, 8, 6);
  const TestMatrix x = on_device(host);
  kernels().rotary(batch, x.matrix(), 8, device.table());
  expect_close(x, reference::rotary(batch, reference::from_matrix(host.matrix()), 8, angles));
}

TEST_P(RotaryTest, OfNoRowsIsNoWork) {
  const DeviceRotary device(backend(), some_angles(2, 8));
  const TestMatrix x = poisoned(0, 16);
  kernels().rotary(batch_of({}), x.matrix(), 8, device.table());
  kernels().rotary(batch_of({0}), x.matrix(), 8, device.table());
  backend().synchronize();
}

GPTQ_FORWARD_SUITE(RotaryTest);

class RowsTest : public ForwardKernels {};

TEST_P(RowsTest, EmbeddingRows) {
  const std::vector<std::int32_t> ids = {3, 0, 7, 3};
  for (const std::int64_t hidden : {20, 33, 4096}) {
    for (const DType stored : {DType::f32, DType::f16, DType::bf16}) {
      for (const View view : kViews) {
        Array table = reference::random_array(8, hidden, stored, 10);
        table.at(7, 1) = std::ldexp(1.0, -24);  // f16's smallest subnormal
        const TestMatrix device(backend(), table, stored, view);
        const TestMatrix out(backend(), DType::f32, 4, hidden, view);
        kernels().embed(ids, device.matrix(), out.matrix());
        EXPECT_TRUE(out.is_written());
        const Array got = out.array();
        for (std::int64_t r = 0; r < 4; ++r) {
          for (std::int64_t c = 0; c < hidden; ++c)
            ASSERT_EQ(got.at(r, c), table.at(ids[static_cast<std::size_t>(r)], c)) << name_of(stored);
        }
      }
    }
  }
}

TEST_P(RowsTest, EmbeddingOfManyIdsAndOfNone) {
  std::vector<std::int32_t> ids;
  for (std::int32_t k = 0; k < 2000; ++k) ids.push_back(k * 7 % 50);
  const Array table = reference::random_array(50, 6, dtype(), 12);
  const TestMatrix device(backend(), table, dtype());
  const TestMatrix out(backend(), DType::f32, 2000, 6), none(backend(), DType::f32, 0, 6);
  kernels().embed(ids, device.matrix(), out.matrix());
  kernels().embed({}, device.matrix(), none.matrix());
  const Array got = out.array();
  for (std::int64_t r = 0; r < 2000; ++r)
    ASSERT_EQ(got.at(r, 5), table.at(ids[static_cast<std::size_t>(r)], 5)) << "row " << r;
}

TEST_P(RowsTest, FindsWhatIsNotFinite) {
  // What lies around the view is NaN, and must not be looked at.
  for (const View view : kViews) {
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(-NAN),
                             static_cast<double>(INFINITY), -static_cast<double>(INFINITY)}) {
      for (const auto& [row, col] :
           std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 0}, {150, 32}, {199, 0}, {199, 32}}) {
        Array x = reference::random_array(200, 33, dtype(), 11);
        x.at(row, col) = bad;
        EXPECT_FALSE(kernels().all_finite(TestMatrix(backend(), x, dtype(), view).matrix()))
            << bad << " at " << row << ", " << col;
      }
    }
    EXPECT_TRUE(kernels().all_finite(on_device(random(200, 33, 11), view).matrix()));
  }
}

TEST_P(RowsTest, LargeSmallAndMissingValuesAreFinite) {
  Array x(1, 5);
  x.values = {-3e38, 3e38, 1e-45, -0.0, 0};
  EXPECT_TRUE(kernels().all_finite(TestMatrix(backend(), x, dtype()).matrix()));
  EXPECT_TRUE(kernels().all_finite(poisoned(0, 33).matrix()));
}

TEST_P(RowsTest, FiniteIsForgottenBetweenCalls) {
  EXPECT_FALSE(kernels().all_finite(poisoned(2, 2).matrix()));
  EXPECT_TRUE(kernels().all_finite(on_device(random(2, 2, 1)).matrix()));
}

GPTQ_FORWARD_SUITE(RowsTest);

}  // namespace
}  // namespace gptq
