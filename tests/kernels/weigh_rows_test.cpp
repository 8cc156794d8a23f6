#include <gtest/gtest.h>

#include <cmath>

#include "support/test_backend.h"

namespace gptq {
namespace {

using reference::Array;
using test::kViews;
using test::TestMatrix;

class RowFiguresTest : public testing::TestWithParam<test::Place>, protected test::OnBackend {
 protected:
  void SetUp() override { start(GetParam().backend, dtype()); }
  DType dtype() const { return GetParam().dtype; }
  double tolerance() const { return test::tolerances_of(GetParam().backend, dtype()).forward; }
};

Array weighed(const Array& hidden, double eps, const Array& x) {
  Array y = x;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    double square = 0;
    for (std::int64_t c = 0; c < hidden.cols; ++c) square += hidden.at(r, c) * hidden.at(r, c);
    for (std::int64_t c = 0; c < x.cols; ++c)
      y.at(r, c) /= std::sqrt(square / static_cast<double>(hidden.cols) + eps);
  }
  return y;
}

TEST_P(RowFiguresTest, RowsAreWeighedByTheNormOfTheirHiddenState) {
  for (const auto& [rows, width, n] : std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t>>{
           {1, 1, 1}, {3, 5, 7}, {70, 64, 96}, {129, 300, 257}, {65, 1025, 40}}) {
    Array hidden = reference::random_array(rows, width, DType::f32, 1);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < width; ++c) hidden.at(r, c) *= std::exp2(static_cast<double>(r % 9) - 4);
    const Array x = reference::random_array(rows, n, dtype(), 2);
    const Array expected = weighed(hidden, 1e-5, x);
    for (const test::View& view : kViews) {
      const TestMatrix states(backend(), hidden, DType::f32, view), in(backend(), x, dtype(), view);
      const TestMatrix out(backend(), dtype(), rows, n, view);
      kernels().weigh_rows(states.matrix(), 1e-5f, in.matrix(), out.matrix());
      EXPECT_TRUE(out.is_written());
      EXPECT_LT(reference::largest_difference(out.array(), expected), tolerance()) << rows << "x" << n;
      // In place.
      kernels().weigh_rows(states.matrix(), 1e-5f, in.matrix(), in.matrix());
      EXPECT_EQ(in.bytes(), out.bytes());
    }
  }
}

TEST_P(RowFiguresTest, DifferencesAreRoundedOnce) {
  for (const auto& [rows, n] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {70, 96}, {129, 257}}) {
    const Array a = reference::random_array(rows, n, dtype(), 5),
                b = reference::random_array(rows, n, dtype(), 6);
    Array expected = a;
    for (std::size_t k = 0; k < expected.values.size(); ++k) {
      const auto difference = static_cast<float>(a.values[k] - b.values[k]);
      expected.values[k] = dtype() == DType::bf16 ? to_float(to_bf16(difference)) : difference;
    }
    for (const test::View& view : kViews) {
      const TestMatrix left(backend(), a, dtype(), view), right(backend(), b, dtype(), view);
      const TestMatrix out(backend(), dtype(), rows, n, view);
      kernels().subtract(left.matrix(), right.matrix(), {}, out.matrix());
      EXPECT_TRUE(out.is_written());
      EXPECT_EQ(reference::largest_difference(out.array(), expected), 0) << rows << "x" << n;
    }
  }
}

TEST_P(RowFiguresTest, DifferencesOfFloatsLoseTheBiasAndTakeTheComputeType) {
  for (const auto& [rows, n] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {70, 96}, {129, 257}}) {
    const Array a = reference::random_array(rows, n, DType::f32, 7),
                b = reference::random_array(rows, n, DType::f32, 8);
    std::vector<float> bias;
    for (std::int64_t c = 0; c < n; ++c) bias.push_back(static_cast<float>(b.at(0, c)) / 3);
    Array expected = a;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < n; ++c) {
        const float difference = static_cast<float>(a.at(r, c)) - static_cast<float>(b.at(r, c)) -
                                 bias[static_cast<std::size_t>(c)];
        expected.at(r, c) = dtype() == DType::bf16 ? to_float(to_bf16(difference)) : difference;
      }
    }
    for (const test::View& view : kViews) {
      const TestMatrix left(backend(), a, DType::f32, view), right(backend(), b, DType::f32, view);
      const TestMatrix out(backend(), dtype(), rows, n, view);
      kernels().subtract(left.matrix(), right.matrix(), bias, out.matrix());
      EXPECT_TRUE(out.is_written());
      EXPECT_EQ(reference::largest_difference(out.array(), expected), 0) << rows << "x" << n;
    }
  }
}

TEST_P(RowFiguresTest, ARowsWeightDependsOnThatRowAlone) {
  const Array hidden = reference::random_array(140, 300, DType::f32, 3);
  const Array x = reference::random_array(140, 77, dtype(), 4);
  const TestMatrix states(backend(), hidden, DType::f32), in(backend(), x, dtype());
  const TestMatrix whole(backend(), dtype(), 140, 77);
  kernels().weigh_rows(states.matrix(), 1e-6f, in.matrix(), whole.matrix());
  const TestMatrix pieces(backend(), dtype(), 140, 77);
  for (const auto& [first, count] : {std::pair{0, 1}, std::pair{1, 64}, std::pair{65, 75}})
    kernels().weigh_rows(states.matrix().rows_from(first, count), 1e-6f, in.matrix().rows_from(first, count),
                         pieces.matrix().rows_from(first, count));
  EXPECT_EQ(pieces.bytes(), whole.bytes());
}

TEST_P(RowFiguresTest, RowsOfZerosStayZeros) {
  const TestMatrix states(backend(), Array(3, 40), DType::f32), in(backend(), Array(3, 20), dtype());
  kernels().weigh_rows(states.matrix(), 1e-5f, in.matrix(), in.matrix());
  for (const double value : in.array().values) EXPECT_EQ(value, 0);
}

struct Errors {
  std::vector<double> error, norm;
};

Errors errors_of(const Batch& batch, const Array& a, const Array& b) {
  Errors result;
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    double error = 0, norm = 0;
    for (std::int64_t r = batch.offsets[static_cast<std::size_t>(s)];
         r < batch.offsets[static_cast<std::size_t>(s) + 1]; ++r) {
      for (std::int64_t c = 0; c < a.cols; ++c) {
        error += (a.at(r, c) - b.at(r, c)) * (a.at(r, c) - b.at(r, c));
        norm += a.at(r, c) * a.at(r, c);
      }
    }
    result.error.push_back(error);
    result.norm.push_back(norm);
  }
  return result;
}

TEST_P(RowFiguresTest, ErrorsOfSamplesAgreeWithDoublePrecision) {
  const Batch batch{{0, 1, 1, 66, 195, 200}};
  for (const std::int64_t n : {1, 33, 257}) {
    const Array a = reference::random_array(200, n, DType::bf16, 5);
    Array b = reference::random_array(200, n, DType::bf16, 6, 0.01);
    for (std::size_t k = 0; k < b.values.size(); ++k)
      b.values[k] = to_float(to_bf16(static_cast<float>(b.values[k] + a.values[k])));
    const Errors expected = errors_of(batch, a, b);
    for (const DType of_a : {DType::f32, dtype()}) {
      for (const test::View& view : kViews) {
        Errors got{std::vector<double>(5, -1), std::vector<double>(5, -1)};
        kernels().squared_error(batch, TestMatrix(backend(), a, of_a, view).matrix(),
                                TestMatrix(backend(), b, dtype(), view).matrix(), got.error, got.norm);
        for (std::size_t s = 0; s < 5; ++s) {
          EXPECT_NEAR(got.error[s], expected.error[s], 1e-6 * expected.error[s]) << "sample " << s;
          EXPECT_NEAR(got.norm[s], expected.norm[s], 1e-6 * expected.norm[s]) << "sample " << s;
        }
      }
    }
  }
}

TEST_P(RowFiguresTest, ASamplesErrorIsTheSameInAnyBatch) {
  const Array a = reference::random_array(200, 130, dtype(), 7),
              b = reference::random_array(200, 130, dtype(), 8);
  const TestMatrix left(backend(), a, dtype()), right(backend(), b, dtype());
  const Batch batch{{0, 70, 71, 200}};
  std::vector<double> error(3), norm(3), alone(1), norm_alone(1);
  kernels().squared_error(batch, left.matrix(), right.matrix(), error, norm);
  for (std::size_t s = 0; s < 3; ++s) {
    const std::int64_t first = batch.offsets[s], count = batch.offsets[s + 1] - first;
    kernels().squared_error(Batch{{0, count}}, left.matrix().rows_from(first, count),
                            right.matrix().rows_from(first, count), alone, norm_alone);
    EXPECT_EQ(alone[0], error[s]);
    EXPECT_EQ(norm_alone[0], norm[s]);
  }
}

INSTANTIATE_TEST_SUITE_P(Places, RowFiguresTest, testing::ValuesIn(test::test_places()), test::name_of_place);

}  // namespace
}  // namespace gptq
