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

/// Bytes from which the way there costs more than the meeting.
constexpr std::size_t kLarge = std::size_t{1} << 18;

/// Bytes of a large reduction that are under way together.
constexpr std::size_t kReducedPiece = std::size_t{1} << 23;

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

MpiCommunicator::MpiCommunicator(MPI_Comm parent, RankWatch::Timing timing) : watch_(parent, timing) {
  GPTQ_MPI(MPI_Comm_dup(parent, &comm_));
  GPTQ_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  GPTQ_MPI(MPI_Comm_rank(comm_, &rank_));
  GPTQ_MPI(MPI_Comm_size(comm_, &size_));
}

MpiCommunicator::~MpiCommunicator() {
  if (MPI_Comm_free(&comm_) != MPI_SUCCESS) log::warn("an MPI communicator could not be freed");
}

void MpiCommunicator::meet() {
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Ibarrier(comm_, &request));
  watch_.wait(request);
}

void MpiCommunicator::barrier() {
  watch_.enter("barrier");
  meet();
}

void MpiCommunicator::send_all(void* data, std::size_t bytes, int root) {
  const bool large = bytes >= kLarge;
  if (large) meet();
  in_pieces(static_cast<std::byte*>(data), bytes, [&](std::byte* piece, int count) {
    MPI_Request request = MPI_REQUEST_NULL;
    GPTQ_MPI(MPI_Ibcast(piece, count, MPI_BYTE, root, comm_, &request));
    watch_.wait(request, large);
  });
}

void MpiCommunicator::broadcast(void* data, std::size_t bytes, int root) {
  watch_.enter("broadcast");
  send_all(data, bytes, root);
}

template <typename T>
void MpiCommunicator::all_reduce(const char* name, std::span<T> values, MPI_Datatype type, MPI_Op operation) {
  watch_.enter(name);
  const auto reduce = [&](const void* mine, T* all, int count) {
    MPI_Request request = MPI_REQUEST_NULL;
    GPTQ_MPI(MPI_Iallreduce(mine, all, count, type, operation, comm_, &request));
    watch_.wait(request, mine != MPI_IN_PLACE);
  };
  if (values.size_bytes() < kLarge) {
    in_pieces(values.data(), values.size(), [&](T* piece, int count) { reduce(MPI_IN_PLACE, piece, count); });
    return;
  }
  meet();
  // Open MPI sends large messages round a ring, which moves the fewest bytes, but never in place.
  const std::size_t piece = std::min(kReducedPiece / sizeof(T), values.size());
  std::vector<T> mine(piece);
  for (std::size_t first = 0; first < values.size(); first += piece) {
    const std::span<T> part = values.subspan(first, std::min(piece, values.size() - first));
    std::copy(part.begin(), part.end(), mine.begin());
    reduce(mine.data(), part.data(), static_cast<int>(part.size()));
  }
}

void MpiCommunicator::all_reduce_sum(std::span<std::int64_t> values) {
  all_reduce("sum", values, MPI_INT64_T, MPI_SUM);
}

void MpiCommunicator::all_reduce_max(std::span<float> magnitudes) {
  // Bit patterns of floats >= 0 order like integers, with infinity above every number and NaN above infinity;
  // MPI_MAX on floats leaves NaN undefined.
  all_reduce("maximum", magnitudes, MPI_INT32_T, MPI_MAX);
}

void MpiCommunicator::all_reduce_max(std::span<std::int64_t> values) {
  all_reduce("maximum", values, MPI_INT64_T, MPI_MAX);
}

std::vector<std::vector<std::byte>> MpiCommunicator::all_gather(std::span<const std::byte> mine) {
  watch_.enter("gather");
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(size_));
  const std::int64_t bytes = static_cast<std::int64_t>(mine.size());
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Iallgather(&bytes, 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, comm_, &request));
  watch_.wait(request);
  std::vector<std::vector<std::byte>> all(sizes.size());
  for (int rank = 0; rank < size_; ++rank) {
    auto& part = all[static_cast<std::size_t>(rank)];
    if (rank == rank_) {
      part.assign(mine.begin(), mine.end());
    } else {
      part.resize(static_cast<std::size_t>(sizes[static_cast<std::size_t>(rank)]));
    }
    send_all(part.data(), part.size(), rank);
  }
  return all;
}

}  // namespace gptq
