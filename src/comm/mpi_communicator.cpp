#include "comm/mpi_communicator.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "comm/mpi_check.h"

namespace gptq {
namespace {

/// MPI counts are ints: longer messages go in pieces of so many elements.
constexpr std::size_t kPiece = std::size_t{1} << 27;

template <typename T, typename Send>
void in_pieces(T* data, std::size_t count, Send&& send) {
  for (std::size_t first = 0; first < count; first += kPiece) {
    send(data + first, static_cast<int>(std::min(kPiece, count - first)));
  }
}

}  // namespace

void check_mpi(int code, const char* call, const char* file, int line) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommError("MPI failed: {} in {} ({}:{}); look at the launcher's output for the rank that died first",
                  text, call, file, line);
}

MpiCommunicator::MpiCommunicator(MPI_Comm parent) {
  GPTQ_MPI(MPI_Comm_dup(parent, &comm_));
  GPTQ_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  GPTQ_MPI(MPI_Comm_rank(comm_, &rank_));
  GPTQ_MPI(MPI_Comm_size(comm_, &size_));
}

MpiCommunicator::~MpiCommunicator() {
  if (MPI_Comm_free(&comm_) != MPI_SUCCESS) log::warn("an MPI communicator could not be freed");
}

void MpiCommunicator::barrier() {
  GPTQ_MPI(MPI_Barrier(comm_));
}

void MpiCommunicator::broadcast(void* data, std::size_t bytes, int root) {
  in_pieces(static_cast<std::byte*>(data), bytes,
            [&](std::byte* piece, int count) { GPTQ_MPI(MPI_Bcast(piece, count, MPI_BYTE, root, comm_)); });
}

void MpiCommunicator::all_reduce_sum(std::span<std::int64_t> values) {
  in_pieces(values.data(), values.size(), [&](std::int64_t* piece, int count) {
    GPTQ_MPI(MPI_Allreduce(MPI_IN_PLACE, piece, count, MPI_INT64_T, MPI_SUM, comm_));
  });
}

void MpiCommunicator::all_reduce_max(std::span<float> magnitudes) {
  // Bit patterns of floats >= 0 order like integers, with infinity above every number and NaN above infinity;
  // MPI_MAX on floats leaves NaN undefined.
  in_pieces(magnitudes.data(), magnitudes.size(), [&](float* piece, int count) {
    GPTQ_MPI(MPI_Allreduce(MPI_IN_PLACE, piece, count, MPI_INT32_T, MPI_MAX, comm_));
  });
}

void MpiCommunicator::all_reduce_max(std::span<std::int64_t> values) {
  in_pieces(values.data(), values.size(), [&](std::int64_t* piece, int count) {
    GPTQ_MPI(MPI_Allreduce(MPI_IN_PLACE, piece, count, MPI_INT64_T, MPI_MAX, comm_));
  });
}

std::vector<std::vector<std::byte>> MpiCommunicator::all_gather(std::span<const std::byte> mine) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(size_));
  const std::int64_t bytes = static_cast<std::int64_t>(mine.size());
  GPTQ_MPI(MPI_Allgather(&bytes, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, comm_));
  std::vector<std::vector<std::byte>> all(sizes.size());
  for (int rank = 0; rank < size_; ++rank) {
    auto& part = all[static_cast<std::size_t>(rank)];
    if (rank == rank_) {
      part.assign(mine.begin(), mine.end());
    } else {
      part.resize(static_cast<std::size_t>(sizes[static_cast<std::size_t>(rank)]));
    }
    broadcast(part.data(), part.size(), rank);
  }
  return all;
}

}  // namespace gptq
