#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <mutex>

/// Private to the CUDA plugin: copies between host memory of any kind and the device, by way of pinned
/// pieces, so that the copy by the CPU and the one by the device overlap and neither waits for the kernels
/// more than it must.
namespace gptq::cuda {

/// Pinned pieces with an event each.
class PinnedPieces {
 public:
  static constexpr std::size_t kPieces = 4;
  static constexpr std::size_t kPieceBytes = 8u << 20;

  explicit PinnedPieces(cudaStream_t stream);
  ~PinnedPieces();
  PinnedPieces(const PinnedPieces&) = delete;
  PinnedPieces& operator=(const PinnedPieces&) = delete;

  std::byte* data(std::size_t piece) const { return memory_ + piece * kPieceBytes; }
  cudaStream_t stream() const { return stream_; }
  void mark(std::size_t piece);  ///< everything put into the stream so far, this piece's copies included
  void wait(std::size_t piece);  ///< until what the last mark() covers is done; at once if there is none

 private:
  void give_back() noexcept;

  cudaStream_t stream_;
  std::byte* memory_ = nullptr;
  std::array<cudaEvent_t, kPieces> done_{};
};

/// Host to device in the order of one stream. From any thread.
class UploadRing {
 public:
  explicit UploadRing(cudaStream_t stream) : pieces_(stream) {}
  /// The host memory may be reused when this returns; the copy itself happens in stream order.
  void upload(void* to, const void* from_host, std::size_t bytes);

 private:
  std::size_t room();

  PinnedPieces pieces_;
  std::mutex mutex_;
  std::size_t piece_ = 0;  ///< the one being filled: small uploads share a piece
  std::size_t used_ = 0;   ///< bytes of it
};

/// Device to host in the order of one stream; returns when the bytes are there. One thread at a time.
class DownloadRing {
 public:
  explicit DownloadRing(cudaStream_t stream) : pieces_(stream) {}
  void download(void* to_host, const void* from, std::size_t bytes);

 private:
  PinnedPieces pieces_;
};

}  // namespace gptq::cuda
