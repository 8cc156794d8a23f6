#include "tools/bench/kernel_bench_data.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "base/error.h"

namespace gptq::bench {
namespace {

/// 8 times a prime: rows of a multiple of 8 elements start at ever different places, aligned to 16 bytes.
constexpr std::size_t kPool = 8 * 131071;

const std::vector<float>& pool() {
  static const std::vector<float> values = [] {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    std::vector<float> result(kPool);
    for (float& value : result) value = normal(generator);
    return result;
  }();
  return values;
}

/// The pool's values, or the first `count` of them, as stored in `dtype`.
std::vector<std::byte> pattern(DType dtype, float scale, std::size_t count) {
  count = std::min(count, kPool);
  std::vector<std::byte> bytes(count * size_of(dtype));
  for (std::size_t i = 0; i < count; ++i) {
    const float value = pool()[i] * scale;
    if (dtype == DType::f32) {
      std::memcpy(bytes.data() + i * 4, &value, 4);
    } else {
      GPTQ_EXPECT(dtype == DType::bf16);
      const bf16 rounded = to_bf16(value);
      std::memcpy(bytes.data() + i * 2, &rounded, 2);
    }
  }
  return bytes;
}

/// Fills device memory with copies of a pattern, each twice as long as the one before.
void repeat_on_device(Backend& backend, const DeviceBuffer& to, const std::vector<std::byte>& once) {
  std::size_t done = std::min(once.size(), to.size());
  backend.upload(to.data(), once.data(), done);
  while (done < to.size()) {
    const std::size_t next = std::min(done, to.size() - done);
    backend.copy(to.data() + done, to.data(), next);
    done += next;
  }
}

DeviceMatrix matrix_in(DeviceBuffer buffer, DType dtype, std::int64_t rows, std::int64_t cols) {
  Matrix matrix{buffer.data(), dtype, rows, cols, cols};
  return {std::move(buffer), matrix};
}

std::size_t bytes_of(DType dtype, std::int64_t rows, std::int64_t cols) {
  return static_cast<std::size_t>(rows * cols) * size_of(dtype);
}

}  // namespace

DeviceMatrix random_matrix(const Bench& bench, DType dtype, std::int64_t rows, std::int64_t cols,
                           float scale) {
  DeviceBuffer buffer = bench.backend.allocate(bytes_of(dtype, rows, cols));
  repeat_on_device(bench.backend, buffer, pattern(dtype, scale, static_cast<std::size_t>(rows * cols)));
  return matrix_in(std::move(buffer), dtype, rows, cols);
}

DeviceMatrix random_host_matrix(const Bench& bench, DType dtype, std::int64_t rows, std::int64_t cols,
                                float scale) {
  DeviceBuffer buffer = bench.backend.allocate_host(bytes_of(dtype, rows, cols));
  const std::vector<std::byte> once = pattern(dtype, scale, static_cast<std::size_t>(rows * cols));
  for (std::size_t done = 0; done < buffer.size(); done += once.size())
    std::memcpy(buffer.data() + done, once.data(), std::min(once.size(), buffer.size() - done));
  return matrix_in(std::move(buffer), dtype, rows, cols);
}

DeviceMatrix poisoned_matrix(const Bench& bench, DType dtype, std::int64_t rows, std::int64_t cols) {
  DeviceBuffer buffer = bench.backend.allocate(bytes_of(dtype, rows, cols));
  repeat_on_device(bench.backend, buffer, std::vector<std::byte>(std::size_t{1} << 20, std::byte{0xff}));
  return matrix_in(std::move(buffer), dtype, rows, cols);
}

Batch batch_of(const Bench& bench, std::int64_t rows) {
  Batch batch;
  while (batch.rows() < rows)
    batch.offsets.push_back(std::min(rows, batch.rows() + bench.shapes.sample_tokens));
  return batch;
}

std::vector<float> random_floats(std::size_t count, float scale) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = pool()[i % kPool] * scale;
  return values;
}

std::vector<std::int32_t> random_ids(std::size_t count, std::int64_t below) {
  std::mt19937 generator(11);
  std::uniform_int_distribution<std::int32_t> any(0, static_cast<std::int32_t>(below - 1));
  std::vector<std::int32_t> ids(count);
  for (std::int32_t& id : ids) id = any(generator);
  return ids;
}

std::vector<float> tail_of(const Bench& bench, const Matrix& matrix) {
  const std::int64_t count = std::min<std::int64_t>(64, matrix.cols);
  const Matrix tail = matrix.rows_from(matrix.rows - 1, 1).cols_from(matrix.cols - count, count);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(matrix.dtype));
  bench.backend.download(bytes.data(), tail.data, bytes.size());
  const HostTensor as_stored = [&] {
    HostTensor tensor = make_tensor(matrix.dtype, {1, count});
    std::memcpy(tensor.storage.data(), bytes.data(), bytes.size());
    return tensor;
  }();
  const HostTensor floats = convert(as_stored, DType::f32);
  const auto* const values = reinterpret_cast<const float*>(floats.storage.data());
  return {values, values + count};
}

std::string shape_text(std::initializer_list<std::int64_t> sizes) {
  return fmt::format("{}", fmt::join(sizes, "x"));
}

}  // namespace gptq::bench
