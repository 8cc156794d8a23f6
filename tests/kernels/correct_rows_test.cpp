#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "kernels/quality_fixture.h"

namespace gptq::solve_test {
namespace {

using reference::Dense;

/// A stage whose layer sees x where the full-precision stream has `stream`.
struct Streams {
  Dense stream, x;
  Stage stage;
  std::vector<int> exponents;  ///< of the stream's columns
  DeviceBuffer m;              ///< (n, n)
  Dense cross;                 ///< what m was made of
};

Dense noisy(const Dense& x, double noise, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Dense result = x;
  for (double& value : result.values) value += noise * normal(generator);
  return result;
}

/// Tokens (4n, n) with correlated columns of unlike magnitudes.
Dense tokens_of(std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Dense x(4 * n, n);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const double common = normal(generator);
    for (std::int64_t c = 0; c < n; ++c)
      x.at(t, c) = (normal(generator) + 0.7 * common) * std::exp(static_cast<double>(c % 5) / 2 - 1);
  }
  return x;
}

/// Integers 2^(e_i+f_j) C_ij.
std::vector<std::int64_t> cross_integers(const Dense& c, const std::vector<int>& rows,
                                         const std::vector<int>& cols) {
  std::vector<std::int64_t> sum;
  for (std::int64_t i = 0; i < c.rows; ++i)
    for (std::int64_t j = 0; j < c.cols; ++j)
      sum.push_back(std::llround(
          std::ldexp(c.at(i, j), rows[static_cast<std::size_t>(i)] + cols[static_cast<std::size_t>(j)])));
  return sum;
}

Streams make_streams(Backend& backend, Dense stream, Dense x, std::int64_t rows,
                     const QuantizationSection& section) {
  const std::int64_t n = x.cols;
  Layer layer = make_layer(rows, n, 71);
  layer.hessian = reference::hessian(x);
  Streams streams{
      std::move(stream), std::move(x), make_stage(backend, std::move(layer), section), {}, {}, {}};
  Dense difference = streams.stream;
  for (std::size_t k = 0; k < difference.values.size(); ++k) difference.values[k] -= streams.x.values[k];
  streams.cross = reference::cross(difference, streams.x);
  const Dense own = reference::hessian(streams.stream);
  for (std::int64_t c = 0; c < n; ++c) {
    int exponent = 0;
    if (own.at(c, c) > 0) std::frexp(own.at(c, c), &exponent);
    streams.exponents.push_back((54 - exponent) / 2);
  }
  const DeviceBuffer sum =
      test::upload(backend, cross_integers(streams.cross, streams.exponents, streams.stage.sum.exponents));
  streams.m = test::poisoned(backend, factor_bytes(n));
  backend.kernels().expand_cross(streams.stage.input(0), sum.as<std::int64_t>(), streams.exponents,
                                 streams.m.as<float>());
  return streams;
}

Dense correct(Backend& backend, const Streams& streams, const HostTensor& weight, double alpha) {
  const RowsToSolve part{weight.matrix()};
  const StageFactor& factor = streams.stage.factor;
  const HostTensor result = std::move(backend.kernels().correct_rows(
      {&part, 1}, factor.columns, streams.m.as<float>(), factor.factor(), alpha)[0]);
  Dense dense(weight.shape[0], weight.shape[1]);
  const auto* from = reinterpret_cast<const float*>(result.storage.data());
  std::copy(from, from + dense.values.size(), dense.values.begin());
  return dense;
}

/// Largest |a − b| in units of b's root mean square.
double distance(const Dense& a, const Dense& b) {
  double largest = 0, square = 0;
  for (std::size_t k = 0; k < b.values.size(); ++k) {
    const double d = std::abs(a.values[k] - b.values[k]);
    if (!(d <= largest)) largest = d;
    square += b.values[k] * b.values[k];
  }
  return largest / std::sqrt(square / static_cast<double>(b.values.size()));
}

class CorrectRows : public test::BackendTest {
 protected:
  bool emulated() const { return test::is_emulated(GetParam()); }
};

TEST_P(CorrectRows, AgreesWithDoublePrecision) {
  for (const std::int64_t n : {1, 3, 127, 128, 129, 260}) {
    if (emulated() && n > 200) continue;
    for (const OrderMode& mode : kOrderModes) {
      SCOPED_TRACE(std::to_string(n) + " columns, " + mode.name);
      Dense x = tokens_of(n, 72);
      Dense stream = noisy(x, 0.3, 73);
      if (n > 100) {  // columns that only one of the streams uses, and that none does
        for (std::int64_t t = 0; t < x.rows; ++t)
          x.at(t, 5) = x.at(t, 70) = stream.at(t, 70) = stream.at(t, 99) = 0;
      }
      const Streams streams = make_streams(backend(), stream, x, 7, section_of(4, 32, true, mode, "minmax"));
      const HostTensor weight = as_tensor(streams.stage.layer.weight);
      for (const double alpha : {0.5, 1.0}) {
        const Dense expected =
            reference::correct(streams.stage.layer.weight, streams.cross, streams.stage.layer.hessian,
                               streams.stage.factor.damping, alpha);
        EXPECT_GT(distance(streams.stage.layer.weight, expected), 0.01);
        EXPECT_LT(distance(correct(backend(), streams, weight, alpha), expected), 2e-4) << "alpha " << alpha;
      }
    }
  }
}

TEST_P(CorrectRows, AlphaZeroGivesTheWeightsBitForBit) {
  const Dense x = tokens_of(140, 74);
  const Streams streams = make_streams(backend(), noisy(x, 0.3, 75), x, 70, QuantizationSection{});
  HostTensor weight = as_tensor(streams.stage.layer.weight);
  reinterpret_cast<float*>(weight.storage.data())[3] = -0.0f;
  const RowsToSolve part{weight.matrix()};
  const StageFactor& factor = streams.stage.factor;
  const auto result =
      backend().kernels().correct_rows({&part, 1}, factor.columns, streams.m.as<float>(), factor.factor(), 0);
  EXPECT_EQ(test::bytes_of(result[0]), test::bytes_of(weight));
}

TEST_P(CorrectRows, EqualStreamsChangeNothing) {
  const Dense x = tokens_of(140, 76);
  const Streams streams = make_streams(backend(), x, x, 9, QuantizationSection{});
  const HostTensor weight = as_tensor(streams.stage.layer.weight);
  EXPECT_LT(distance(correct(backend(), streams, weight, 1), streams.stage.layer.weight), 1e-5);
}

// With next to no damping and alpha 1: W* X̃ᵀ is the projection of W Xᵀ on what X̃ can make.
TEST_P(CorrectRows, IsTheLeastSquaresSolution) {
  const std::int64_t n = 60;
  const Dense x = tokens_of(n, 77), stream = noisy(x, 0.5, 78);
  QuantizationSection section;
  section.damp_percent = 1e-6;
  const Streams streams = make_streams(backend(), stream, x, 5, section);
  const Dense corrected = correct(backend(), streams, as_tensor(streams.stage.layer.weight), 1);
  const auto error_of = [&](const Dense& w) {
    double error = 0;
    for (std::int64_t r = 0; r < w.rows; ++r) {
      for (std::int64_t t = 0; t < x.rows; ++t) {
        double difference = 0;
        for (std::int64_t c = 0; c < n; ++c)
          difference += streams.stage.layer.weight.at(r, c) * stream.at(t, c) - w.at(r, c) * x.at(t, c);
        error += difference * difference;
      }
    }
    return error;
  };
  // Normal equations: W* H = W (H + C).
  Dense target(5, n);
  for (std::int64_t r = 0; r < 5; ++r)
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        target.at(r, j) += streams.stage.layer.weight.at(r, i) *
                           (streams.cross.at(i, j) + streams.stage.layer.hessian.at(i, j));
  const Dense best = reference::solve_right(target, streams.stage.layer.hessian);
  EXPECT_LT(distance(corrected, best), 2e-3);
  EXPECT_NEAR(error_of(corrected) / error_of(best), 1, 1e-5);
  EXPECT_LT(error_of(best), 0.95 * error_of(streams.stage.layer.weight));
}

TEST_P(CorrectRows, SameBitsForAnyPartitionTypeAndNumberOfRows) {
  const std::int64_t n = 140, rows = 130;
  const Dense x = tokens_of(n, 79);
  const Streams streams = make_streams(backend(), noisy(x, 0.3, 80), x, rows, QuantizationSection{});
  const HostTensor brains = convert(as_tensor(streams.stage.layer.weight), DType::bf16);
  const HostTensor floats = convert(brains, DType::f32);
  const auto prepared = backend().kernels().prepare_linear(brains.matrix(), {}, DType::bf16);
  const StageFactor& factor = streams.stage.factor;
  const auto run = [&](std::vector<RowsToSolve> parts) {
    std::string bytes;
    for (const HostTensor& result :
         backend().kernels().correct_rows(parts, factor.columns, streams.m.as<float>(), factor.factor(), 0.5))
      bytes += test::bytes_of(result);
    return bytes;
  };
  const std::string whole = run({{floats.matrix()}});
  EXPECT_EQ(whole.size(), static_cast<std::size_t>(rows * n) * sizeof(float));
  EXPECT_EQ(run({{brains.matrix()}}), whole);
  EXPECT_EQ(run({{floats.matrix().rows_from(0, 1)},
                 {brains.matrix().rows_from(1, 0)},
                 {brains.matrix().rows_from(1, 99), prepared.get(), 1},
                 {floats.matrix().rows_from(100, 30)}}),
            whole);
  const std::size_t row_bytes = static_cast<std::size_t>(n) * sizeof(float);
  for (const std::int64_t row : {0, 63, 64, 129})
    EXPECT_EQ(run({{floats.matrix().rows_from(row, 1)}}),
              whole.substr(static_cast<std::size_t>(row) * row_bytes, row_bytes));
  EXPECT_EQ(run({}), "");
}

/// scale · Σ y xᵀ (rows, n) for the outputs y that the layer makes of the full-precision stream.
DeviceBuffer wanted_outputs(Backend& backend, const Streams& streams) {
  const Dense& w = streams.stage.layer.weight;
  Dense y(streams.x.rows, w.rows);
  for (std::int64_t t = 0; t < y.rows; ++t)
    for (std::int64_t r = 0; r < w.rows; ++r)
      for (std::int64_t c = 0; c < w.cols; ++c) y.at(t, r) += w.at(r, c) * streams.stream.at(t, c);
  const Dense products = reference::cross(y, streams.x);
  return test::upload(backend, std::vector<float>(products.values.begin(), products.values.end()));
}

DeviceBuffer undamped_hessian(Backend& backend, const Streams& streams) {
  DeviceBuffer h = test::poisoned(backend, factor_bytes(streams.x.cols));
  backend.kernels().expand_hessian(streams.stage.input(0), h.as<float>());
  return h;
}

// W + (Y X̃ᵀ − W H)(H + λI)⁻¹ with Y = W X is W + W C (H + λI)⁻¹.
TEST_P(CorrectRows, TowardsWantedOutputsIsTowardsTheOtherStream) {
  for (const std::int64_t n : {1, 60, 129}) {
    for (const OrderMode& mode : kOrderModes) {
      SCOPED_TRACE(std::to_string(n) + " columns, " + mode.name);
      const Dense x = tokens_of(n, 85);
      const Streams streams =
          make_streams(backend(), noisy(x, 0.3, 86), x, 70, section_of(4, 32, true, mode, "minmax"));
      const DeviceBuffer wanted = wanted_outputs(backend(), streams);
      const DeviceBuffer h = undamped_hessian(backend(), streams);
      const HostTensor weight = as_tensor(streams.stage.layer.weight);
      const StageFactor& factor = streams.stage.factor;
      std::vector<RowsToSolve> parts{{weight.matrix().rows_from(0, 3)}, {weight.matrix().rows_from(3, 67)}};
      parts[0].wanted = wanted.as<float>();
      parts[1].wanted = wanted.as<float>() + 3 * n;
      Dense got(70, n);
      auto to = got.values.begin();
      for (const HostTensor& part :
           backend().kernels().correct_rows(parts, factor.columns, h.as<float>(), factor.factor(), 0.7)) {
        const auto* from = reinterpret_cast<const float*>(part.storage.data());
        to = std::copy(from, from + part.elements(), to);
      }
      const Dense expected = reference::correct(streams.stage.layer.weight, streams.cross,
                                                streams.stage.layer.hessian, factor.damping, 0.7);
      EXPECT_GT(distance(streams.stage.layer.weight, expected), 0.01);
      EXPECT_LT(distance(got, expected), 5e-4);
    }
  }
}

TEST_P(CorrectRows, WantedOutputsGiveARowTheSameBitsInAnyPartition) {
  const std::int64_t n = 140, rows = 130;
  const Dense x = tokens_of(n, 87);
  const Streams streams = make_streams(backend(), noisy(x, 0.3, 88), x, rows, QuantizationSection{});
  const DeviceBuffer wanted = wanted_outputs(backend(), streams), h = undamped_hessian(backend(), streams);
  const HostTensor weight = as_tensor(streams.stage.layer.weight);
  const StageFactor& factor = streams.stage.factor;
  const auto run = [&](const std::vector<std::int64_t>& counts) {
    std::vector<RowsToSolve> parts;
    std::int64_t first = 0;
    for (const std::int64_t count : counts) {
      parts.push_back({weight.matrix().rows_from(first, count)});
      parts.back().wanted = wanted.as<float>() + first * n;
      first += count;
    }
    std::string bytes;
    for (const HostTensor& result :
         backend().kernels().correct_rows(parts, factor.columns, h.as<float>(), factor.factor(), 1))
      bytes += test::bytes_of(result);
    return bytes;
  };
  const std::string whole = run({rows});
  EXPECT_EQ(run({1, 64, 65}), whole);
  EXPECT_EQ(run({100, 0, 30}), whole);
}

TEST_P(CorrectRows, NanInWeightsIsANumericalError) {
  const Dense x = tokens_of(64, 81);
  const Streams streams = make_streams(backend(), noisy(x, 0.3, 82), x, 66, QuantizationSection{});
  HostTensor weight = as_tensor(streams.stage.layer.weight);
  reinterpret_cast<float*>(weight.storage.data())[65 * 64 + 3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(correct(backend(), streams, weight, 0.5), NumericalError);
}

GPTQ_BACKEND_SUITE(CorrectRows);

TEST(CorrectOnTheCpu, AnyNumberOfThreadsGivesTheSameBits) {
  const Dense x = tokens_of(140, 83), stream = noisy(x, 0.3, 84);
  std::vector<Dense> results;
  for (const int threads : {1, 2, 3}) {
    const auto backend = test::make_test_backend("cpu", threads);
    const Streams streams = make_streams(*backend, stream, x, 300, QuantizationSection{});
    results.push_back(correct(*backend, streams, as_tensor(streams.stage.layer.weight), 0.5));
    EXPECT_EQ(results.back().values, results.front().values) << threads << " threads";
  }
}

}  // namespace
}  // namespace gptq::solve_test
