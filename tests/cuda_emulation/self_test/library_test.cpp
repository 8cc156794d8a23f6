#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cusolverDn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "tests/cuda_emulation/memory.h"

/// The libraries' conventions, as their manuals state them.
namespace {

template <typename T>
struct Array {
  explicit Array(const std::vector<T>& values) : count(values.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data), count * sizeof(T)), cudaSuccess);
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

/// One product, its handles made and destroyed.
struct Matmul {
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;

  Matmul(cublasOperation_t ta, cublasOperation_t tb, cudaDataType in, cudaDataType out,
         cublasComputeType_t compute = CUBLAS_COMPUTE_32F) {
    cublasLtMatmulDescCreate(&description, compute, compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta);
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    in_ = in;
    out_ = out;
  }
  ~Matmul() {
    for (cublasLtMatrixLayout_t layout : {a, b, c}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(description);
  }
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  struct Shape {
    std::uint64_t rows, cols;
    std::int64_t ld;
  };
  void shapes(Shape of_a, Shape of_b, Shape of_c) {
    cublasLtMatrixLayoutCreate(&a, in_, of_a.rows, of_a.cols, of_a.ld);
    cublasLtMatrixLayoutCreate(&b, in_, of_b.rows, of_b.cols, of_b.ld);
    cublasLtMatrixLayoutCreate(&c, out_, of_c.rows, of_c.cols, of_c.ld);
  }
  template <typename T>
  cublasStatus_t run(T alpha, const void* pa, const void* pb, T beta, void* pc) const {
    return cublasLtMatmul(nullptr, description, &alpha, pa, a, pb, b, &beta, pc, c, pc, c, nullptr, nullptr,
                          0, nullptr);
  }

 private:
  cudaDataType in_, out_;
};

TEST(EmulatedBlas, ColumnMajorWithTransposes) {
  // A (2, 3) = [1 2 3; 4 5 6], B (3, 2) = [1 0; 0 1; 1 1]; A·B = [4 5; 10 11].
  const Array<float> a({1, 4, 99, 2, 5, 99, 3, 6, 99});  // ld 3
  const Array<float> a_transposed({1, 2, 3, 4, 5, 6});   // (3, 2), ld 3
  const Array<float> b({1, 0, 1, 0, 1, 1});              // ld 3
  const Array<float> b_transposed({1, 0, 0, 1, 1, 1});   // (2, 3), ld 2
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      const Array<float> c({1, 1, 77, 1, 1, 77});  // ld 3
      Matmul product(ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, CUDA_R_32F, CUDA_R_32F);
      product.shapes(ta ? Matmul::Shape{3, 2, 3} : Matmul::Shape{2, 3, 3},
                     tb ? Matmul::Shape{2, 3, 2} : Matmul::Shape{3, 2, 3}, {2, 2, 3});
      ASSERT_EQ(
          product.run(2.0f, ta ? a_transposed.data : a.data, tb ? b_transposed.data : b.data, 10.0f, c.data),
          CUBLAS_STATUS_SUCCESS);
      EXPECT_EQ(c.host(), (std::vector<float>{18, 30, 77, 20, 32, 77}));
    }
}

TEST(EmulatedBlas, BetaZeroDoesNotReadC) {
  const Array<double> a({2}), b({3}), c({NAN});
  Matmul product(CUBLAS_OP_N, CUBLAS_OP_N, CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F);
  product.shapes({1, 1, 1}, {1, 1, 1}, {1, 1, 1});
  ASSERT_EQ(product.run(1.0, a.data, b.data, 0.0, c.data), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(c.host()[0], 6);
}

TEST(EmulatedBlas, RowOrderAndBatches) {
  const Array<__nv_bfloat16> a({__float2bfloat16_rn(1), __float2bfloat16_rn(2), __float2bfloat16_rn(3)});
  const Array<__nv_bfloat16> b({__float2bfloat16_rn(5), __float2bfloat16_rn(7)});
  const Array<float> c(std::vector<float>(4, -1.0f));
  Matmul product(CUBLAS_OP_N, CUBLAS_OP_N, CUDA_R_16BF, CUDA_R_32F);
  product.shapes({2, 1, 1}, {1, 1, 1}, {2, 1, 1});  // rows of one element, row-major
  const std::int32_t order = CUBLASLT_ORDER_ROW, batches = 2;
  const std::int64_t strides[] = {1, 1, 2};
  int i = 0;
  for (cublasLtMatrixLayout_t layout : {product.a, product.b, product.c}) {
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order);
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches);
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &strides[i++],
                                     sizeof strides[0]);
  }
  ASSERT_EQ(product.run(1.0f, a.data, b.data, 0.0f, c.data), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(c.host(), (std::vector<float>{5, 10, 14, 21}));
}

TEST(EmulatedBlas, RefusesWhatTheLibraryRefuses) {
  const Array<float> a({1, 2, 3, 4, 5, 6});
  const auto status = [&](Matmul::Shape of_a, Matmul::Shape of_b, Matmul::Shape of_c, cudaDataType out) {
    Matmul product(CUBLAS_OP_N, CUBLAS_OP_N, CUDA_R_32F, out);
    product.shapes(of_a, of_b, of_c);
    return product.run(1.0f, a.data, a.data, 0.0f, a.data);
  };
  EXPECT_EQ(status({2, 1, 1}, {1, 1, 1}, {2, 1, 2}, CUDA_R_32F), CUBLAS_STATUS_INVALID_VALUE);   // ld < rows
  EXPECT_EQ(status({2, 1, 2}, {2, 1, 2}, {2, 1, 2}, CUDA_R_32F), CUBLAS_STATUS_INVALID_VALUE);   // inner size
  EXPECT_EQ(status({2, 1, 2}, {1, 1, 1}, {2, 1, 2}, CUDA_R_16BF), CUBLAS_STATUS_NOT_SUPPORTED);  // types
}

TEST(EmulatedBlasDeathTest, WantsDeviceMemory) {
  const Array<float> a({1});
  float host = 0;
  Matmul product(CUBLAS_OP_N, CUBLAS_OP_N, CUDA_R_32F, CUDA_R_32F);
  product.shapes({1, 1, 1}, {1, 1, 1}, {1, 1, 1});
  EXPECT_DEATH(product.run(1.0f, a.data, &host, 0.0f, a.data), "cuBLASLt's B: 4 bytes");
}

// ---- Cholesky

/// Factors [4 2; 2 corner], column-major with leading dimension 3; 99 marks what must not be touched.
struct Factored {
  std::vector<double> a;
  int info;
};
Factored factor(double corner, cublasFillMode_t triangle) {
  const bool upper = triangle == CUBLAS_FILL_MODE_UPPER;
  const Array<double> a({4, upper ? 99.0 : 2.0, 99, upper ? 2.0 : 99.0, corner, 99});
  const Array<int> info({-7});
  cusolverDnHandle_t solver = nullptr;
  cusolverDnParams_t parameters = nullptr;
  cusolverDnCreate(&solver);
  cusolverDnCreateParams(&parameters);
  std::size_t device_bytes = 0, host_bytes = 0;
  EXPECT_EQ(cusolverDnXpotrf_bufferSize(solver, parameters, triangle, 2, CUDA_R_64F, a.data, 3, CUDA_R_64F,
                                        &device_bytes, &host_bytes),
            CUSOLVER_STATUS_SUCCESS);
  const Array<std::uint8_t> work{std::vector<std::uint8_t>(device_bytes)};
  std::vector<std::uint8_t> host_work(host_bytes);
  EXPECT_EQ(cusolverDnXpotrf(solver, parameters, triangle, 2, CUDA_R_64F, a.data, 3, CUDA_R_64F, work.data,
                             device_bytes, host_work.data(), host_bytes, info.data),
            CUSOLVER_STATUS_SUCCESS);
  cusolverDnDestroyParams(parameters);
  cusolverDnDestroy(solver);
  return {a.host(), info.host()[0]};
}

TEST(EmulatedSolver, CholeskyOfEitherTriangle) {
  const Factored upper = factor(17, CUBLAS_FILL_MODE_UPPER);
  EXPECT_EQ(upper.info, 0);
  EXPECT_EQ(upper.a, (std::vector<double>{2, 99, 99, 1, 4, 99}));
  const Factored lower = factor(17, CUBLAS_FILL_MODE_LOWER);
  EXPECT_EQ(lower.info, 0);
  EXPECT_EQ(lower.a, (std::vector<double>{2, 1, 99, 99, 4, 99}));
}

TEST(EmulatedSolver, TellsTheFirstBadMinor) {
  EXPECT_EQ(factor(1, CUBLAS_FILL_MODE_UPPER).info, 2);
}

// ---- streams

/// Two streams, a producer and a consumer of one number in device memory, through pinned memory.
class EmulatedStreams : public ::testing::Test {
 protected:
  void SetUp() override {
    for (cudaStream_t* stream : {&producer_, &consumer_})
      cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
    for (int** number : {&from_, &to_}) cudaMallocHost(reinterpret_cast<void**>(number), sizeof(int));
    cudaMalloc(reinterpret_cast<void**>(&device_), sizeof(int));
    cudaMemset(device_, 0, sizeof(int));
    cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
    *from_ = 7;
    *to_ = -1;
  }
  void TearDown() override {
    cudaEventDestroy(event_);
    cudaFree(device_);
    for (int* number : {from_, to_}) cudaFreeHost(number);
    for (cudaStream_t stream : {producer_, consumer_}) cudaStreamDestroy(stream);
  }
  int consume(bool ordered) {
    cudaMemcpyAsync(device_, from_, sizeof(int), cudaMemcpyHostToDevice, producer_);
    cudaEventRecord(event_, producer_);
    if (ordered) cudaStreamWaitEvent(consumer_, event_);
    cudaMemcpyAsync(to_, device_, sizeof(int), cudaMemcpyDeviceToHost, consumer_);
    cudaStreamSynchronize(consumer_);
    return *to_;
  }
  static bool lazy() {
    const char* mode = std::getenv("GPTQ_EMULATION_STREAMS");
    return mode != nullptr && std::string(mode) == "lazy";
  }

  cudaStream_t producer_ = nullptr, consumer_ = nullptr;
  int *from_ = nullptr, *to_ = nullptr, *device_ = nullptr;
  cudaEvent_t event_ = nullptr;
};

TEST_F(EmulatedStreams, WorkWaitsForEvents) {
  EXPECT_EQ(consume(true), 7);
}

TEST_F(EmulatedStreams, AMissingWaitShowsWhereStreamsAreLazy) {
  if (!lazy()) GTEST_SKIP() << "GPTQ_EMULATION_STREAMS is not lazy";
  EXPECT_EQ(consume(false), 0);
}

TEST_F(EmulatedStreams, PinnedMemoryReusedTooEarlyShowsWhereStreamsAreLazy) {
  if (!lazy()) GTEST_SKIP() << "GPTQ_EMULATION_STREAMS is not lazy";
  cudaMemcpyAsync(device_, from_, sizeof(int), cudaMemcpyHostToDevice, producer_);
  *from_ = 8;
  cudaStreamSynchronize(producer_);
  cudaMemcpy(to_, device_, sizeof(int), cudaMemcpyDeviceToHost);
  EXPECT_EQ(*to_, 8);
}

TEST_F(EmulatedStreams, PollingGetsOn) {
  cudaMemcpyAsync(device_, from_, sizeof(int), cudaMemcpyHostToDevice, producer_);
  cudaEventRecord(event_, producer_);
  int polls = 0;
  while (cudaEventQuery(event_) == cudaErrorNotReady) ASSERT_LT(++polls, 10);
  EXPECT_EQ(cudaStreamQuery(producer_), cudaSuccess);
}

TEST(EmulatedMemory, IsCountedAndRefusedWhenFull) {
  const std::size_t before = emulation::used_bytes();
  void* memory = nullptr;
  ASSERT_EQ(cudaMallocAsync(&memory, 1000, nullptr), cudaSuccess);
  EXPECT_EQ(emulation::used_bytes(), before + 1000);
  EXPECT_EQ(cudaFreeAsync(memory, nullptr), cudaSuccess);
  EXPECT_EQ(emulation::used_bytes(), before);
  EXPECT_EQ(cudaFreeAsync(memory, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMalloc(&memory, std::size_t{1} << 40), cudaErrorMemoryAllocation);
  cudaGetLastError();
}

}  // namespace
