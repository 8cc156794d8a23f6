#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/machine.h"
#include "support/reference_forward.h"

namespace gptq {

inline Batch batch_of(const std::vector<std::int64_t>& lengths) {
  Batch batch;
  for (const std::int64_t length : lengths) batch.offsets.push_back(batch.offsets.back() + length);
  return batch;
}

inline std::string bytes_of(const HostTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.storage.data()),
          static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype)};
}

/// Rows of one sample as a batch of their own.
inline HostTensor sample_of(const HostTensor& all, const Batch& batch, std::int64_t sample) {
  const std::int64_t first = batch.offsets[sample];
  const std::int64_t rows = batch.offsets[sample + 1] - first;
  HostTensor result = make_tensor(all.dtype, {rows, all.shape[1]});
  const Matrix source = all.matrix().rows_from(first, rows);
  std::memcpy(result.storage.data(), source.data,
              static_cast<std::size_t>(rows * all.shape[1]) * size_of(all.dtype));
  return result;
}

/// Every forward suite runs in both compute types; `tolerance` is relative to 1 + |expected|.
class ForwardKernels : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (dtype() == DType::bf16 && !machine_has_bf16()) GTEST_SKIP() << "no bf16 products on this machine";
  }
  DType dtype() const { return GetParam(); }
  double tolerance() const { return dtype() == DType::f32 ? 3e-6 : 8e-3; }

  CpuKernels kernels_{2};
};

inline std::string dtype_name(const testing::TestParamInfo<DType>& info) {
  return std::string(name_of(info.param));
}

#define GPTQ_FORWARD_SUITE(Suite) \
  INSTANTIATE_TEST_SUITE_P(Types, Suite, testing::Values(DType::f32, DType::bf16), dtype_name)

}  // namespace gptq
