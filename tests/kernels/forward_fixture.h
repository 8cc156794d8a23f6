#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "support/reference_forward.h"
#include "support/test_backend.h"

namespace gptq {

using test::kViews;
using test::TestMatrix;
using test::View;

inline Batch batch_of(const std::vector<std::int64_t>& lengths) {
  Batch batch;
  for (const std::int64_t length : lengths) batch.offsets.push_back(batch.offsets.back() + length);
  return batch;
}

/// Rows of one sample as a batch of their own.
inline HostTensor sample_of(const HostTensor& all, const Batch& batch, std::int64_t sample) {
  const auto s = static_cast<std::size_t>(sample);
  const std::int64_t first = batch.offsets[s];
  const std::int64_t rows = batch.offsets[s + 1] - first;
  HostTensor result = make_tensor(all.dtype, {rows, all.shape[1]});
  const Matrix source = all.matrix().rows_from(first, rows);
  std::memcpy(result.storage.data(), source.data,
              static_cast<std::size_t>(rows * all.shape[1]) * size_of(all.dtype));
  return result;
}

/// Every forward suite runs on every backend in both compute types.
class ForwardKernels : public testing::TestWithParam<test::Place>, protected test::OnBackend {
 protected:
  void SetUp() override { start(GetParam().backend, dtype()); }

  DType dtype() const { return GetParam().dtype; }
  bool emulated() const { return test::is_emulated(GetParam().backend); }
  test::Tolerances tolerances() const { return test::tolerances_of(GetParam().backend, dtype()); }

  HostTensor random(std::int64_t rows, std::int64_t cols, unsigned seed, double scale = 1) const {
    return reference::to_tensor(reference::random_array(rows, cols, dtype(), seed, scale), dtype());
  }
  TestMatrix on_device(const HostTensor& tensor, View view = {}) const { return {backend(), tensor, view}; }
  TestMatrix poisoned(std::int64_t rows, std::int64_t cols, View view = {}) const {
    return {backend(), dtype(), rows, cols, view};
  }
  void expect_close(const TestMatrix& got, const reference::Array& expected) const {
    EXPECT_TRUE(got.is_written());
    EXPECT_LT(reference::largest_difference(got.array(), expected), tolerances().forward);
  }
};

#define GPTQ_FORWARD_SUITE(Suite)                                                          \
  INSTANTIATE_TEST_SUITE_P(Forward, Suite, testing::ValuesIn(::gptq::test::test_places()), \
                           ::gptq::test::name_of_place)

/// What only the CPU promises: a sample's bits depend neither on threads nor on the rest of its batch.
class CpuForwardKernels : public ForwardKernels {};

#define GPTQ_CPU_FORWARD_SUITE(Suite)                                                                   \
  INSTANTIATE_TEST_SUITE_P(                                                                             \
      Forward, Suite,                                                                                   \
      testing::Values(::gptq::test::Place{"cpu", DType::f32}, ::gptq::test::Place{"cpu", DType::bf16}), \
      ::gptq::test::name_of_place)

}  // namespace gptq
