#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cuda/ptx.cuh"

/// The emulation itself: what it computes, and which mistakes of kernels it notices. Compiled like a .cu.
namespace emulation_test::cuda {
namespace {

constexpr unsigned kAll = 0xffffffffu;

template <typename T>
struct Array {
  explicit Array(std::size_t elements) : count(elements) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data), count * sizeof(T)), cudaSuccess);
  }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    EXPECT_EQ(cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~Array() { EXPECT_EQ(cudaFree(data), cudaSuccess); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  std::vector<T> host() const {
    std::vector<T> values(count);
    EXPECT_EQ(cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

  T* data = nullptr;
  std::size_t count;
};

template <typename... Parameters, typename... Arguments>
cudaError_t run(dim3 grid, dim3 block, std::size_t shared, void (*kernel)(Parameters...),
                Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

__global__ void where_am_i(int* out) {
  const int block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  out[block * threads + thread] = block * 1000 + thread;
}

TEST(Emulation, EveryThreadOfEveryBlockRunsOnce) {
  Array<int> out(24 * 30);
  ASSERT_EQ(run(dim3(2, 3, 4), dim3(5, 3, 2), 0, where_am_i, out.data), cudaSuccess);
  const std::vector<int> values = out.host();
  for (int i = 0; i < 24 * 30; ++i) EXPECT_EQ(values[static_cast<std::size_t>(i)], i / 30 * 1000 + i % 30);
}

/// Each thread sums its neighbour's value, many times: any barrier missed shows.
template <int kThreads>
__global__ void neighbours(int* out, int rounds) {
  __shared__ int values[kThreads];
  const int me = static_cast<int>(threadIdx.x);
  int mine = me;
  for (int round = 0; round < rounds; ++round) {
    values[me] = mine;
    __syncthreads();
    mine += values[(me + 1) % kThreads];
    __syncthreads();
  }
  out[me] = mine;
}

TEST(Emulation, BarriersOrderSharedMemory) {
  Array<int> out(96);
  ASSERT_EQ(run(1, 96, 0, neighbours<96>, out.data, 5), cudaSuccess);
  std::vector<int> expected(96), before(96);
  for (int i = 0; i < 96; ++i) expected[static_cast<std::size_t>(i)] = i;
  for (int round = 0; round < 5; ++round) {
    before = expected;
    for (std::size_t i = 0; i < 96; ++i) expected[i] += before[(i + 1) % 96];
  }
  EXPECT_EQ(out.host(), expected);
}

__global__ void read_unwritten(float* out) {
  __shared__ float fixed[4];
  alignas(16) __shared__ float other[2];
  const float* dynamic = static_cast<float*>(emulation::dynamic_shared_memory());
  if (threadIdx.x == 0) {
    out[0] = fixed[3];
    out[1] = other[0];
    out[2] = dynamic[7];
    fixed[3] = other[0] = 1;
  }
}

TEST(Emulation, SharedAndDeviceMemoryStartAsNaNsInEveryBlock) {
  Array<float> out(4);
  ASSERT_EQ(run(3, 1, 32, read_unwritten, out.data), cudaSuccess);
  for (const float x : out.host()) EXPECT_TRUE(std::isnan(x));
}

__global__ void warp_functions(int* out) {
  const int me = static_cast<int>(threadIdx.x % 32);
  int* mine = out + threadIdx.x * 8;
  mine[0] = __shfl_sync(kAll, me, 5);
  mine[1] = __shfl_xor_sync(kAll, me, 3);
  mine[2] = __shfl_up_sync(kAll, me, 2);
  mine[3] = __shfl_down_sync(kAll, me, 2);
  mine[4] = static_cast<int>(__ballot_sync(kAll, me % 2));
  mine[5] = __any_sync(kAll, me == 7) + 2 * __all_sync(kAll, me == 7);
  mine[6] = __shfl_sync(kAll, me, 1, 8);
  mine[7] = __shfl_down_sync(kAll, me, 3, 8);
}

TEST(Emulation, WarpFunctions) {
  Array<int> out(64 * 8);
  ASSERT_EQ(run(1, 64, 0, warp_functions, out.data), cudaSuccess);
  const std::vector<int> values = out.host();
  for (int thread = 0; thread < 64; ++thread) {
    const int me = thread % 32;
    const int* mine = values.data() + thread * 8;
    EXPECT_EQ(mine[0], 5);
    EXPECT_EQ(mine[1], me ^ 3);
    EXPECT_EQ(mine[2], me < 2 ? me : me - 2);
    EXPECT_EQ(mine[3], me >= 30 ? me : me + 2);
    EXPECT_EQ(static_cast<unsigned>(mine[4]), 0xaaaaaaaau);
    EXPECT_EQ(mine[5], 1);
    EXPECT_EQ(mine[6], me / 8 * 8 + 1);
    EXPECT_EQ(mine[7], me % 8 >= 5 ? me : me + 3);
  }
}

__global__ void count_and_maximum(int* sum, unsigned long long* largest) {
  atomicAdd(sum, 1);
  atomicMax(largest, static_cast<unsigned long long>(threadIdx.x) << 40);
}

TEST(Emulation, IntegerAtomics) {
  Array<int> sum(std::vector<int>{0});
  Array<unsigned long long> largest(std::vector<unsigned long long>{0});
  ASSERT_EQ(run(7, 33, 0, count_and_maximum, sum.data, largest.data), cudaSuccess);
  EXPECT_EQ(sum.host()[0], 7 * 33);
  EXPECT_EQ(largest.host()[0], 32ull << 40);
}

TEST(Emulation, ConversionsSaturateAsInPtx) {
  EXPECT_EQ(__float2int_rn(2.5f), 2);
  EXPECT_EQ(__float2int_rn(3e9f), std::numeric_limits<int>::max());
  EXPECT_EQ(__float2int_rn(-3e9f), std::numeric_limits<int>::min());
  EXPECT_EQ(__float2int_rn(NAN), 0);
  EXPECT_EQ(__double2ll_rn(1e30), std::numeric_limits<long long>::max());
  EXPECT_EQ(__double2ll_rn(NAN), std::numeric_limits<long long>::min());
  EXPECT_EQ(__double2ll_rn(-0.5), 0);
}

// ---- mistakes

__global__ void ends_before_barrier() {
  if (threadIdx.x == 40) return;
  __syncthreads();
}
__global__ void two_barriers() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void half_a_warp() {
  if (threadIdx.x % 32 < 16) __syncwarp();
}
__global__ void different_operations(int* out) {
  *out = threadIdx.x < 7 ? __any_sync(kAll, 1) : __all_sync(kAll, 1);
}
__global__ void partial_mask() {
  __syncwarp(1);
}
__global__ void beyond_shared() {
  static_cast<float*>(emulation::dynamic_shared_memory())[25] = 0;
}
__global__ void beyond_device(float* out) {
  out[10] = 0;
}

using EmulationDeathTest = ::testing::Test;

TEST(EmulationDeathTest, NamesThreadsThatWaitForEver) {
  EXPECT_DEATH(run(2, 64, 0, ends_before_barrier),
               "1 threads, the first \\(40, 0, 0\\): ended(.|\n)*ends_before");
  EXPECT_DEATH(run(1, 64, 0, half_a_warp), "wait in __syncwarp at .*emulation_test");
}
TEST(EmulationDeathTest, NoticesDivergence) {
  Array<int> out(1);
  EXPECT_DEATH(run(1, 64, 0, two_barriers), "different __syncthreads");
  EXPECT_DEATH(run(1, 32, 0, different_operations, out.data), "here __a.._sync, others __a.._sync");
  EXPECT_DEATH(run(1, 32, 0, partial_mask), "without the full mask");
}
TEST(EmulationDeathTest, NoticesWritesOutOfBounds) {
  Array<float> out(10);
  EXPECT_DEATH(run(1, 1, 100, beyond_shared), "0 bytes behind the 100 bytes of dynamic shared memory");
  EXPECT_DEATH(run(1, 1, 0, beyond_device, out.data), "behind the 40 bytes .* after kernel .*beyond_device");
}

TEST(Emulation, LaunchesAreChecked) {
  EXPECT_EQ(run(1, 1025, 0, partial_mask), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(dim3(1, 65536), 32, 0, partial_mask), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(1, 32, 49 * 1024, partial_mask), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(Emulation, CopiesAreChecked) {
  Array<int> device(4);
  int host[8] = {};
  EXPECT_EQ(cudaMemcpy(host, device.data, 16, cudaMemcpyHostToDevice), cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemcpy(host, device.data, 20, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, device.data, 16, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(cudaMemset(host, 0, 4), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(host), cudaErrorInvalidValue);
  cudaGetLastError();
}

// ---- tensor cores

float from_bits(std::uint32_t bits) {
  return std::bit_cast<float>(bits << 16);
}
std::uint16_t small_integer(int i) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(i)) >> 16);
}

/// C = A·B with A (16, 16), B (16, 8) in shared memory, loaded as kernels do: A's four 8x8 tiles in the order
/// of its registers, B's two transposed.
__global__ void product(const std::uint16_t* a, const std::uint16_t* b, float* c) {
  alignas(16) __shared__ std::uint16_t sa[16 * 16];
  alignas(16) __shared__ std::uint16_t sb[16 * 8];
  const unsigned lane = threadIdx.x;
  gptq::cuda::cp_async_16(sa + lane * 8, a + lane * 8, true);
  gptq::cuda::cp_async_commit();
  gptq::cuda::cp_async_16(sb + lane % 16 * 8, b + lane % 16 * 8, true);
  gptq::cuda::cp_async_commit();
  gptq::cuda::cp_async_wait<0>();
  __syncthreads();
  std::uint32_t fa[4], fb[2];
  gptq::cuda::ldmatrix_x4(fa, sa + lane % 16 * 16 + lane / 16 * 8);
  gptq::cuda::ldmatrix_x2_trans(fb, sb + lane % 16 * 8);
  float d[4] = {1, 1, 1, 1};
  gptq::cuda::mma_m16n8k16(d, fa, fb);
  const unsigned row = lane / 4, col = lane % 4 * 2;
  c[row * 8 + col] = d[0];
  c[row * 8 + col + 1] = d[1];
  c[(row + 8) * 8 + col] = d[2];
  c[(row + 8) * 8 + col + 1] = d[3];
}

TEST(Emulation, TensorCoreProduct) {
  std::vector<std::uint16_t> a(16 * 16), b(16 * 8);
  for (int i = 0; i < 256; ++i) a[static_cast<std::size_t>(i)] = small_integer(i * 37 % 101 - 50);
  for (int i = 0; i < 128; ++i) b[static_cast<std::size_t>(i)] = small_integer(i * 53 % 89 - 40);
  Array<std::uint16_t> da(a), db(b);
  Array<float> c(128);
  ASSERT_EQ(run(1, 32, 0, product, da.data, db.data, c.data), cudaSuccess);
  const std::vector<float> values = c.host();
  for (std::size_t i = 0; i < 16; ++i)
    for (std::size_t j = 0; j < 8; ++j) {
      float sum = 1;
      for (std::size_t k = 0; k < 16; ++k) sum += from_bits(a[i * 16 + k]) * from_bits(b[k * 8 + j]);
      EXPECT_EQ(values[i * 8 + j], sum) << i << ", " << j;
    }
}

/// The tables of the PTX ISA as its pictures show them, element by element: A(i, j) and B(i, j) hold one at a
/// single place that lane and register name.
__global__ void unit_fragments(unsigned lane_a, unsigned reg_a, unsigned lane_b, unsigned reg_b,
                               float* d_out) {
  std::uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x == lane_a) a[reg_a / 2] = 0x3f80u << reg_a % 2 * 16;
  if (threadIdx.x == lane_b) b[reg_b / 2] = 0x3f80u << reg_b % 2 * 16;
  float d[4] = {};
  gptq::cuda::mma_m16n8k16(d, a, b);
  for (unsigned i = 0; i < 4; ++i) d_out[threadIdx.x * 4 + i] = d[i];
}

TEST(Emulation, FragmentsLieWhereThePtxIsaPutsThem) {
  Array<float> d(128);
  const auto nonzero = [&](unsigned lane_a, unsigned reg_a, unsigned lane_b, unsigned reg_b) {
    EXPECT_EQ(run(1, 32, 0, unit_fragments, lane_a, reg_a, lane_b, reg_b, d.data), cudaSuccess);
    const std::vector<float> values = d.host();
    int found = -1;
    for (int i = 0; i < 128; ++i)
      if (values[static_cast<std::size_t>(i)] != 0) found = i;
    return found;
  };
  // T13 = group 3, member 1. a5 = A(3, 11)? a4, a5: row group, col 2·member + 8 + (i & 1) = 10, 11.
  // B(11, 6): group 6, member (11 - 8) / 2 = 1, register b3. The product lands in D(3, 6): T15, c0.
  EXPECT_EQ(nonzero(13, 5, 25, 3), 15 * 4 + 0);
  // a2: row group + 8 = 11, col 2; B(2, 7): group 7, member 1, b0. D(11, 7): T15, c3.
  EXPECT_EQ(nonzero(13, 2, 29, 0), 15 * 4 + 3);
  EXPECT_EQ(nonzero(13, 2, 29, 1), -1);
}

__global__ void transposed_load(std::uint32_t* out) {
  alignas(16) __shared__ std::uint16_t tile[4 * 64];
  for (unsigned i = threadIdx.x; i < 256; i += 32) tile[i] = static_cast<std::uint16_t>(i);
  __syncwarp();
  std::uint32_t plain[4], turned[4];
  gptq::cuda::ldmatrix_x4(plain, tile + threadIdx.x * 8);
  gptq::cuda::ldmatrix_x4_trans(turned, tile + threadIdx.x * 8);
  for (unsigned i = 0; i < 4; ++i) {
    out[threadIdx.x * 8 + i] = plain[i];
    out[threadIdx.x * 8 + 4 + i] = turned[i];
  }
}

TEST(Emulation, MatrixLoads) {
  Array<std::uint32_t> out(256);
  ASSERT_EQ(run(1, 32, 0, transposed_load, out.data), cudaSuccess);
  const std::vector<std::uint32_t> values = out.host();
  for (std::uint32_t lane = 0; lane < 32; ++lane)
    for (std::uint32_t m = 0; m < 4; ++m) {
      const std::uint32_t first = m * 64 + lane / 4 * 8 + lane % 4 * 2;
      EXPECT_EQ(values[lane * 8 + m], first | (first + 1) << 16);
      const std::uint32_t turned = m * 64 + lane % 4 * 16 + lane / 4;
      EXPECT_EQ(values[lane * 8 + 4 + m], turned | (turned + 8) << 16);
    }
}

__global__ void reads_too_early(const float* in, float* out) {
  alignas(16) __shared__ float values[8];
  gptq::cuda::cp_async_16(values, in, true);
  gptq::cuda::cp_async_commit();
  gptq::cuda::cp_async_16(values + 4, in, false);
  gptq::cuda::cp_async_commit();
  out[0] = values[0];
  gptq::cuda::cp_async_wait<1>();
  out[1] = values[0];
  out[2] = values[4];
  gptq::cuda::cp_async_wait<0>();
  out[3] = values[4];
}

TEST(Emulation, AsynchronousCopiesLandAtTheWait) {
  Array<float> in(std::vector<float>{7, 7, 7, 7}), out(4);
  ASSERT_EQ(run(1, 1, 0, reads_too_early, in.data, out.data), cudaSuccess);
  const std::vector<float> values = out.host();
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_EQ(values[1], 7);
  EXPECT_TRUE(std::isnan(values[2]));
  EXPECT_EQ(values[3], 0);
}

}  // namespace
}  // namespace emulation_test::cuda
