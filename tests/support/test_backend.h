#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "quant/hessian.h"
#include "support/reference_forward.h"
#include "support/reference_quant.h"

/// One suite of kernel tests, instantiated for every backend that the tests were built with. Whatever a
/// kernel touches lies in the backend's memory; outputs are poisoned before each run.
namespace gptq::test {

/// "cpu", and "cuda" where the tests were built with it (a real GPU or tests/cuda_emulation).
std::vector<std::string> test_backends();

/// The CUDA sources run on the CPU, thread by thread: large cases are not worth their time there.
bool is_emulated(const std::string& backend);

/// threads counts for the CPU alone.
std::unique_ptr<Backend> make_test_backend(const std::string& name, int threads = 2);

/// A backend and the compute type that its kernels are given.
struct Place {
  std::string backend;
  DType dtype = DType::f32;
};
void PrintTo(const Place& place, std::ostream* out);  // for GoogleTest's messages
std::vector<Place> test_places();
/// Names of tests; they begin with the backend's name, by which ctest sorts them: "cuda", "cuda_BF16".
std::string name_of_backend(const testing::TestParamInfo<std::string>& info);
std::string name_of_place(const testing::TestParamInfo<Place>& info);

/// How closely a backend must agree with the references, which compute in double precision.
struct Tolerances {
  double forward;      ///< |got - expected| / (1 + |expected|) of forward kernels
  double loss;         ///< of cross entropies, absolute
  double logits;       ///< of a whole small model in f32, absolute
  double hessian;      ///< of Hessian sums, in units of sqrt(H_ii H_jj)
  double factor;       ///< of R Rᵀ, in units of sqrt(H_ii H_jj)
  double equal_codes;  ///< share of codes that equal the textbook's
  double solve_loss;   ///< of a layer's loss, relative
};
Tolerances tolerances_of(const std::string& backend, DType dtype = DType::f32);

/// Fixtures derive from this beside testing::TestWithParam and call start() in SetUp().
class OnBackend {
 protected:
  /// Starts the backend, once a process. Skips the test where it cannot start or lacks products of `dtype`;
  /// fails it where CUDA is emulated or GPTQ_HPC_REQUIRE_CUDA=1 is set: a check of a GPU must not pass by
  /// skipping.
  void start(const std::string& name, DType dtype = DType::f32);
  Backend& backend() const { return *backend_; }
  Kernels& kernels() const { return backend_->kernels(); }

 private:
  Backend* backend_ = nullptr;
};

/// A suite's fixture where the compute type plays no part.
class BackendTest : public testing::TestWithParam<std::string>, protected OnBackend {
 protected:
  void SetUp() override { start(GetParam()); }
};

#define GPTQ_BACKEND_SUITE(Suite)                                                             \
  INSTANTIATE_TEST_SUITE_P(Backends, Suite, testing::ValuesIn(::gptq::test::test_backends()), \
                           ::gptq::test::name_of_backend)

/// Where a matrix lies inside a larger one: unused elements around it, which are poison.
struct View {
  std::int64_t columns_before = 0;
  std::int64_t columns_behind = 0;
  std::int64_t rows_before = 0;
};
/// Packed; with rows of a multiple of 16 bytes that start at one; with rows that start anywhere.
inline constexpr View kViews[] = {{0, 0, 0}, {8, 16, 1}, {1, 2, 3}};

/// A matrix in a backend's memory that knows whether kernels wrote it, and nothing around it.
class TestMatrix {
 public:
  /// Poisoned: all bytes 0xFF, which is NaN in every floating type.
  TestMatrix(Backend& backend, DType dtype, std::int64_t rows, std::int64_t cols, View view = {});
  TestMatrix(Backend& backend, const HostTensor& tensor, View view = {});
  TestMatrix(Backend& backend, const reference::Array& array, DType dtype, View view = {});

  const Matrix& matrix() const { return matrix_; }
  HostTensor download() const;
  reference::Array array() const { return reference::from_matrix(download().matrix()); }
  std::string bytes() const;
  /// Every element was written since the matrix was poisoned, and nothing around it.
  testing::AssertionResult is_written() const;

 private:
  std::vector<std::byte> download_all() const;
  bool is_poison(const std::vector<std::byte>& all, std::int64_t element) const;

  Backend* backend_;
  View view_;
  std::int64_t all_rows_;
  DeviceBuffer buffer_;
  Matrix matrix_;
};

/// The bytes of a tensor's elements.
std::string bytes_of(const HostTensor& tensor);

template <typename T>
DeviceBuffer upload(Backend& backend, const std::vector<T>& values) {
  return to_device(backend, values.data(), values.size() * sizeof(T));
}
template <typename T>
std::vector<T> download(Backend& backend, const DeviceBuffer& buffer, std::size_t count) {
  std::vector<T> values(count);
  if (count > 0) backend.download(values.data(), buffer.data(), count * sizeof(T));
  return values;
}
/// `bytes` of 0xFF.
DeviceBuffer poisoned(Backend& backend, std::size_t bytes);

/// An integer sum whose Hessian is h (symmetric, n×n) to about 2^-54 of sqrt(h_ii h_jj).
HessianSum hessian_sum_from(Backend& backend, const std::vector<double>& h, std::int64_t n);
std::vector<std::int64_t> panels_of(Backend& backend, const HessianSum& sum);

}  // namespace gptq::test
