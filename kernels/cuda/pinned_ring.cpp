#include "kernels/cuda/pinned_ring.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/cuda_check.h"

namespace gptq::cuda {
namespace {

constexpr std::size_t kAlignment = 256;  // of copies inside a piece: what the copy engines like

}  // namespace

PinnedPieces::PinnedPieces(cudaStream_t stream) : stream_(stream) {
  try {
    GPTQ_CUDA(cudaMallocHost(reinterpret_cast<void**>(&memory_), kPieces * kPieceBytes));
    for (cudaEvent_t& event : done_) GPTQ_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  } catch (...) {
    give_back();
    throw;
  }
}

PinnedPieces::~PinnedPieces() {
  give_back();
}

void PinnedPieces::give_back() noexcept {
  for (cudaEvent_t event : done_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (memory_ != nullptr) cudaFreeHost(memory_);
}

void PinnedPieces::mark(std::size_t piece) {
  GPTQ_CUDA(cudaEventRecord(done_[piece], stream_));
}

void PinnedPieces::wait(std::size_t piece) {
  GPTQ_CUDA(cudaEventSynchronize(done_[piece]));
}

/// Bytes left in the present piece, turning to the next one (and waiting for its old copies) if it is full.
std::size_t UploadRing::room() {
  if (used_ == PinnedPieces::kPieceBytes) {
    pieces_.mark(piece_);
    piece_ = (piece_ + 1) % PinnedPieces::kPieces;
    pieces_.wait(piece_);
    used_ = 0;
  }
  return PinnedPieces::kPieceBytes - used_;
}

void UploadRing::upload(void* to, const void* from_host, std::size_t bytes) {
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from_host);
  while (bytes > 0) {
    const std::lock_guard lock(mutex_);  // a piece at a time: a large upload does not keep out a small one
    const std::size_t part = std::min(bytes, room());
    std::byte* staged = pieces_.data(piece_) + used_;
    std::memcpy(staged, source, part);
    GPTQ_CUDA(cudaMemcpyAsync(target, staged, part, cudaMemcpyHostToDevice, pieces_.stream()));
    used_ = std::min(PinnedPieces::kPieceBytes, (used_ + part + kAlignment - 1) / kAlignment * kAlignment);
    target += part;
    source += part;
    bytes -= part;
  }
}

void DownloadRing::download(void* to_host, const void* from, std::size_t bytes) {
  constexpr std::size_t kPieces = PinnedPieces::kPieces;
  constexpr std::size_t kBytes = PinnedPieces::kPieceBytes;
  auto* target = static_cast<std::byte*>(to_host);
  const auto* source = static_cast<const std::byte*>(from);
  const std::size_t parts = (bytes + kBytes - 1) / kBytes;
  // The device copies part `i` while the CPU empties part `i - kPieces`, whose piece `i` takes over.
  for (std::size_t i = 0; i < parts + kPieces; ++i) {
    if (i >= kPieces && i - kPieces < parts) {
      const std::size_t first = (i - kPieces) * kBytes;
      pieces_.wait(i % kPieces);
      std::memcpy(target + first, pieces_.data(i % kPieces), std::min(kBytes, bytes - first));
    }
    if (i < parts) {
      const std::size_t first = i * kBytes;
      GPTQ_CUDA(cudaMemcpyAsync(pieces_.data(i % kPieces), source + first, std::min(kBytes, bytes - first),
                                cudaMemcpyDeviceToHost, pieces_.stream()));
      pieces_.mark(i % kPieces);
    }
  }
}

}  // namespace gptq::cuda
