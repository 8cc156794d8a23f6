#include "support/test_backend.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "base/error.h"
#include "kernels/cpu/machine.h"

namespace gptq::test {
namespace {

bool is_set(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0' && std::string(value) != "0";
}

/// The backends of this process, or why one did not start. Starting one takes a GPU up to a second. They end
/// before the process does, while the libraries under them still work.
class StartedBackends : public testing::Environment {
 public:
  struct Entry {
    std::unique_ptr<Backend> backend;
    std::string failure;
  };
  void TearDown() override { entries_.clear(); }
  const Entry& get(const std::string& name) {
    const auto [place, fresh] = entries_.try_emplace(name);
    if (fresh) {
      try {
        place->second.backend = make_test_backend(name);
      } catch (const DeviceError& error) {
        place->second.failure = error.what();
      }
    }
    return place->second;
  }

 private:
  std::map<std::string, Entry> entries_;
};

auto* const started_backends =
    static_cast<StartedBackends*>(testing::AddGlobalTestEnvironment(new StartedBackends));

}  // namespace

std::vector<std::string> test_backends() {
#ifdef GPTQ_TEST_CUDA
  return {"cpu", "cuda"};
#else
  return {"cpu"};
#endif
}

bool is_emulated(const std::string& backend) {
  return backend == "cuda" && is_set("GPTQ_HPC_CUDA_PLUGIN");
}

std::unique_ptr<Backend> make_test_backend(const std::string& name, int threads) {
  BackendOptions options;
  options.name = name;
  options.threads = threads;
  return make_backend(options);
}

std::vector<Place> test_places() {
  std::vector<Place> places;
  for (const std::string& backend : test_backends()) {
    for (const DType dtype : {DType::f32, DType::bf16}) places.push_back({backend, dtype});
  }
  return places;
}

void PrintTo(const Place& place, std::ostream* out) {
  *out << place.backend << ' ' << name_of(place.dtype);
}

std::string name_of_backend(const testing::TestParamInfo<std::string>& info) {
  return info.param;
}

std::string name_of_place(const testing::TestParamInfo<Place>& info) {
  return info.param.backend + "_" + std::string(name_of(info.param.dtype));
}

Tolerances tolerances_of(const std::string& backend, DType dtype) {
  Tolerances result{};
  // bf16 holds 8 bits: half a unit is 2e-3 of a value; attention rounds its weights as well.
  result.forward = dtype == DType::bf16 ? 8e-3 : 3e-6;
  result.loss = 1e-4;
  result.logits = 1e-4;
  result.hessian = 2e-6;
  result.factor = 1e-6;
  // Single precision flips a code, or the search's choice among two nearly equal scales, now and then; what
  // follows in that row then differs too.
  result.equal_codes = 0.999;
  result.solve_loss = 1e-3;
  // Tensor cores cut off what lies below the running sum's last bits instead of rounding: about 1e-8 a row.
  if (backend == "cuda") result.hessian = 1e-5;
  if (backend == "cuda" && dtype == DType::f32) {
    result.forward = 1e-5;  // fast exponentials of 2 units in the last place; sums in another order
  }
  return result;
}

void OnBackend::start(const std::string& name, DType dtype) {
  const StartedBackends::Entry& entry = started_backends->get(name);
  if (entry.backend == nullptr) {
    if (is_set("GPTQ_HPC_REQUIRE_CUDA") || is_emulated(name))
      FAIL() << "CUDA must start here, but: " << entry.failure;
    GTEST_SKIP() << entry.failure;
  }
  if (name == "cpu" && dtype == DType::bf16 && !machine_has_bf16())
    GTEST_SKIP() << "no bf16 products on this machine";
  backend_ = entry.backend.get();
}

TestMatrix::TestMatrix(Backend& backend, DType dtype, std::int64_t rows, std::int64_t cols, View view)
    : backend_(&backend), view_(view), all_rows_(view.rows_before + rows) {
  const std::int64_t stride = view.columns_before + cols + view.columns_behind;
  buffer_ = poisoned(backend, static_cast<std::size_t>(all_rows_ * stride) * size_of(dtype));
  const Matrix all{buffer_.data(), dtype, all_rows_, stride, stride};
  matrix_ = all.rows_from(view.rows_before, rows).cols_from(view.columns_before, cols);
}

TestMatrix::TestMatrix(Backend& backend, const HostTensor& tensor, View view)
    : TestMatrix(backend, tensor.dtype, tensor.shape.at(0), tensor.shape.at(1), view) {
  std::vector<std::byte> all = download_all();
  const Matrix from = tensor.matrix();
  const std::size_t element = size_of(matrix_.dtype);
  for (std::int64_t r = 0; r < from.rows && from.cols > 0; ++r) {
    const std::int64_t first = (view.rows_before + r) * matrix_.stride + view.columns_before;
    std::memcpy(all.data() + static_cast<std::size_t>(first) * element, from.rows_from(r, 1).data,
                static_cast<std::size_t>(from.cols) * element);
  }
  if (!all.empty()) backend.upload(buffer_.data(), all.data(), all.size());
}

TestMatrix::TestMatrix(Backend& backend, const reference::Array& array, DType dtype, View view)
    : TestMatrix(backend, reference::to_tensor(array, dtype), view) {}

std::vector<std::byte> TestMatrix::download_all() const {
  return test::download<std::byte>(*backend_, buffer_, buffer_.size());
}

HostTensor TestMatrix::download() const {
  const std::vector<std::byte> all = download_all();
  HostTensor result = make_tensor(matrix_.dtype, {matrix_.rows, matrix_.cols});
  const std::size_t element = size_of(matrix_.dtype);
  for (std::int64_t r = 0; r < matrix_.rows && matrix_.cols > 0; ++r) {
    const std::int64_t first = (view_.rows_before + r) * matrix_.stride + view_.columns_before;
    std::memcpy(result.matrix().rows_from(r, 1).data, all.data() + static_cast<std::size_t>(first) * element,
                static_cast<std::size_t>(matrix_.cols) * element);
  }
  return result;
}

std::string TestMatrix::bytes() const {
  return bytes_of(download());
}

bool TestMatrix::is_poison(const std::vector<std::byte>& all, std::int64_t element) const {
  const std::size_t width = size_of(matrix_.dtype);
  for (std::size_t b = 0; b < width; ++b) {
    if (all[static_cast<std::size_t>(element) * width + b] != std::byte{0xff}) return false;
  }
  return true;
}

testing::AssertionResult TestMatrix::is_written() const {
  const std::vector<std::byte> all = download_all();
  for (std::int64_t r = 0; r < all_rows_; ++r) {
    for (std::int64_t c = 0; c < matrix_.stride; ++c) {
      const std::int64_t row = r - view_.rows_before, col = c - view_.columns_before;
      const bool inside = row >= 0 && col >= 0 && col < matrix_.cols;
      if (inside == is_poison(all, r * matrix_.stride + c)) {
        return testing::AssertionFailure()
               << "element (" << row << ", " << col << ") "
               << (inside ? "was not written" : "lies outside and was overwritten");
      }
    }
  }
  return testing::AssertionSuccess();
}

std::string bytes_of(const HostTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.storage.data()),
          static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype)};
}

DeviceBuffer poisoned(Backend& backend, std::size_t bytes) {
  const std::vector<std::byte> poison(bytes, std::byte{0xff});
  return upload(backend, poison);
}

HessianSum hessian_sum_from(Backend& backend, const std::vector<double>& h, std::int64_t n) {
  HessianSum sum;
  sum.n = n;
  sum.tokens = 2;  // the scale 2 / tokens is one
  const auto at = [&](std::int64_t i, std::int64_t j) { return h[static_cast<std::size_t>(i * n + j)]; };
  for (std::int64_t i = 0; i < n; ++i) {
    int exponent = 0;
    if (at(i, i) > 0) std::frexp(at(i, i), &exponent);
    // Scaled diagonals lie in [2^53, 2^56).
    sum.exponents.push_back(at(i, i) > 0 ? static_cast<int>(std::floor((56 - exponent) / 2.0)) : 0);
  }
  // What a panel holds below the diagonal means nothing.
  std::vector<std::int64_t> panels(static_cast<std::size_t>(TriangularPanels::size(n)), -(1LL << 60));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i; j < n; ++j) {
      const int exponent =
          sum.exponents[static_cast<std::size_t>(i)] + sum.exponents[static_cast<std::size_t>(j)];
      panels[static_cast<std::size_t>(TriangularPanels::index(n, i, j))] =
          std::llround(std::ldexp(at(i, j), exponent));
    }
  }
  sum.panels = upload(backend, panels);
  return sum;
}

std::vector<std::int64_t> panels_of(Backend& backend, const HessianSum& sum) {
  return download<std::int64_t>(backend, sum.panels, sum.count());
}

}  // namespace gptq::test
