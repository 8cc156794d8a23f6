#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/error.h"
#include "quant/factor.h"
#include "support/test_backend.h"

namespace gptq {
namespace {

QuantizationSection natural_order() {
  QuantizationSection section;
  section.act_group_aware = false;
  return section;
}

std::vector<double> random_hessian(std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(static_cast<std::size_t>(n * n)), h(x.size(), 0.0);
  for (double& value : x) value = normal(generator);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t t = 0; t < n; ++t)
        h[static_cast<std::size_t>(i * n + j)] +=
            x[static_cast<std::size_t>(t * n + i)] * x[static_cast<std::size_t>(t * n + j)];
  return h;
}

class Factor : public test::BackendTest {
 protected:
  StageFactor factor(const std::vector<double>& h, std::int64_t n, const QuantizationSection& section) const {
    return factor_hessian(backend(), test::hessian_sum_from(backend(), h, n), section);
  }
  std::vector<float> r_of(const StageFactor& f) const {
    return test::download<float>(backend(), f.r, f.r.size() / sizeof(float));
  }
};

TEST_P(Factor, IsUpperTriangularAndMultipliesBackToTheDampedHessian) {
  const std::int64_t n = 70;
  const std::vector<double> h = random_hessian(n, 1);
  for (const bool desc_act : {false, true}) {
    QuantizationSection section = natural_order();
    section.desc_act = desc_act;
    const StageFactor f = factor(h, n, section);
    const std::vector<float> r = r_of(f);
    ASSERT_EQ(r.size(), static_cast<std::size_t>(n * n));
    double trace = 0;
    for (std::int64_t i = 0; i < n; ++i) trace += h[static_cast<std::size_t>(i * n + i)];
    EXPECT_NEAR(f.damping, 0.05 * trace / n, 1e-9);
    EXPECT_EQ(f.damping_steps, 0);
    EXPECT_FALSE(f.fallback);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double product = 0;
        for (std::int64_t k = 0; k < n; ++k)
          product += static_cast<double>(r[static_cast<std::size_t>(i * n + k)]) *
                     r[static_cast<std::size_t>(j * n + k)];
        const auto column = [&](std::int64_t p) { return f.columns.order[static_cast<std::size_t>(p)]; };
        const double expected =
            h[static_cast<std::size_t>(column(i) * n + column(j))] + (i == j ? f.damping : 0);
        EXPECT_NEAR(product, expected, 1e-4 * trace / n);
        if (j < i) {
          EXPECT_EQ(r[static_cast<std::size_t>(i * n + j)], 0);
        }
      }
    }
  }
}

// Eigenvalues 1+c and 1-c of [[1, c], [c, 1]] with c = 1.075: positive definite from a damping of 0.08 on.
TEST_P(Factor, RaisesTheDampingStepByStep) {
  const StageFactor f = factor({1, 1.075, 1.075, 1}, 2, natural_order());
  EXPECT_FALSE(f.fallback);
  EXPECT_EQ(f.damping_steps, 3);
  EXPECT_NEAR(f.damp_percent, 0.08, 1e-12);
  EXPECT_NEAR(f.damping, 0.08, 1e-12);
}

TEST_P(Factor, FallsBackWhereNoDampingHelps) {
  const StageFactor f = factor({1, 3, 3, 1}, 2, natural_order());
  EXPECT_TRUE(f.fallback);
  EXPECT_EQ(f.factor(), nullptr);
  EXPECT_EQ(f.damping, 0);
  EXPECT_EQ(f.damping_steps, 94);  // 0.05, 0.06, ... 0.99
  QuantizationSection never = natural_order();
  never.damp_auto_increment = 0;
  EXPECT_TRUE(factor({1, 1.075, 1.075, 1}, 2, never).fallback);
}

TEST_P(Factor, DeadColumnsGetOneAndDoNotDiluteTheDamping) {
  const StageFactor f = factor({4, 0, 0, 0, 0, 0, 0, 0, 2}, 3, natural_order());
  EXPECT_NEAR(f.damping, 0.05 * 3, 1e-12);
  EXPECT_EQ(f.columns.dead, (std::vector<std::uint8_t>{0, 1, 0}));
  const std::vector<float> r = r_of(f);
  EXPECT_NEAR(r[4] * r[4], 1.15, 1e-6);
  const StageFactor empty = factor({0, 0, 0, 0}, 2, natural_order());
  EXPECT_FALSE(empty.fallback);
  EXPECT_EQ(r_of(empty), (std::vector<float>{1, 0, 0, 1}));
}

TEST_P(Factor, SurvivesSerialisation) {
  QuantizationSection section;
  section.group_size = 8;
  StageFactor f = factor(random_hessian(20, 2), 20, section);
  f.damping_steps = 7;
  f.fallback = true;
  const std::vector<std::byte> bytes = serialize(f);
  const StageFactor back = deserialize_factor(bytes);
  EXPECT_EQ(back.columns.n, 20);
  EXPECT_EQ(back.columns.groups, 3);
  EXPECT_EQ(back.columns.order, f.columns.order);
  EXPECT_EQ(back.columns.group_of, f.columns.group_of);
  EXPECT_EQ(back.columns.weight, f.columns.weight);
  EXPECT_EQ(back.columns.dead, f.columns.dead);
  EXPECT_EQ(back.factor(), nullptr);  // travels by itself
  EXPECT_EQ(back.damping, f.damping);
  EXPECT_EQ(back.damp_percent, f.damp_percent);
  EXPECT_EQ(back.damping_steps, 7);
  EXPECT_TRUE(back.fallback);
  EXPECT_THROW(deserialize_factor(std::span(bytes).first(bytes.size() - 1)), Error);
  EXPECT_THROW(deserialize_factor(std::span(bytes).first(3)), Error);
}

GPTQ_BACKEND_SUITE(Factor);

}  // namespace
}  // namespace gptq
