#include "comm/mpi_communicator.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "comm/mpi_check.h"
#include "comm/mpi_transfer.h"

namespace gptq {
void check_mpi(int code, const char* call, const char* file, int line) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommError("MPI failed: {} in {} ({}:{}); look at the launcher's output for the rank that died first",
                  text, call, file, line);
}

MpiCommunicator::MpiCommunicator(MPI_Comm parent, RankWatch::Timing timing, Pieces pieces)
    : watch_(std::make_shared<RankWatch>(parent, timing)), team_(watch_->next_id()), pieces_(pieces) {
  GPTQ_EXPECT(pieces.sent > 0 && pieces.sent <= std::numeric_limits<int>::max());
  GPTQ_EXPECT(pieces.reduced >= sizeof(std::int64_t) && pieces.large <= std::numeric_limits<int>::max());
  GPTQ_EXPECT(pieces.reduced <= std::numeric_limits<int>::max());
  GPTQ_MPI(MPI_Comm_dup(parent, &comm_));
  find_ranks();
}

MpiCommunicator::MpiCommunicator(MPI_Comm comm, std::shared_ptr<RankWatch> watch, RankWatch::TeamId team,
                                 Pieces pieces)
    : comm_(comm), watch_(std::move(watch)), team_(team), pieces_(pieces) {
  find_ranks();
}

void MpiCommunicator::find_ranks() {
  GPTQ_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  GPTQ_MPI(MPI_Comm_rank(comm_, &rank_));
  GPTQ_MPI(MPI_Comm_size(comm_, &size_));
  MPI_Group here = MPI_GROUP_NULL, everywhere = MPI_GROUP_NULL;
  GPTQ_MPI(MPI_Comm_group(comm_, &here));
  GPTQ_MPI(MPI_Comm_group(watch_->comm(), &everywhere));
  std::vector<int> ranks(static_cast<std::size_t>(size_));
  std::iota(ranks.begin(), ranks.end(), 0);
  world_ranks_.resize(ranks.size());
  GPTQ_MPI(MPI_Group_translate_ranks(here, size_, ranks.data(), everywhere, world_ranks_.data()));
  GPTQ_MPI(MPI_Group_free(&here));
  GPTQ_MPI(MPI_Group_free(&everywhere));
  watch_->add_team(team_, world_ranks_);
}

MpiCommunicator::~MpiCommunicator() {
  watch_->forget_team(team_);
  if (*unfinished_ > 0) return;  // after an error: MPI still needs it
  if (MPI_Comm_free(&comm_) != MPI_SUCCESS) log::warn("an MPI communicator could not be freed");
}

std::unique_ptr<Communicator> MpiCommunicator::split(int color) {
  GPTQ_EXPECT(color >= 0);
  // Ranks of the new teams must know them by one number that no rank has used.
  std::array<std::int64_t, 1> id{watch_->next_id()};
  all_reduce_max(id);
  meet();  // MPI_Comm_split has no time limit, this has
  MPI_Comm part = MPI_COMM_NULL;
  GPTQ_MPI(MPI_Comm_split(comm_, color, rank_, &part));
  return std::unique_ptr<Communicator>(new MpiCommunicator(part, watch_, id[0], pieces_));
}

void MpiCommunicator::meet() {
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Ibarrier(comm_, &request));
  watch_->wait(request);
}

void MpiCommunicator::barrier() {
  enter("barrier");
  meet();
}

// A message of many pieces is on its way for long: each piece has the whole of the time-out.

void MpiCommunicator::send_all(const char* name, void* data, std::size_t bytes, int root) {
  const bool large = bytes >= pieces_.large;
  enter(name);
  if (large) meet();
  for (std::size_t first = 0; first < bytes; first += pieces_.sent) {
    const std::size_t count = std::min(pieces_.sent, bytes - first);
    if (first > 0) enter(name);
    MPI_Request request = MPI_REQUEST_NULL;
    GPTQ_MPI(MPI_Ibcast(static_cast<std::byte*>(data) + first, static_cast<int>(count), MPI_BYTE, root, comm_,
                        &request));
    watch_->wait(request, large);
  }
}

void MpiCommunicator::broadcast(void* data, std::size_t bytes, int root) {
  send_all("broadcast", data, bytes, root);
}

template <typename T>
void MpiCommunicator::all_reduce(const char* name, std::span<T> values, MPI_Datatype type, MPI_Op operation) {
  enter(name);
  const bool large = values.size_bytes() >= pieces_.large;
  const auto reduce = [&](const void* mine, std::span<T> all) {
    MPI_Request request = MPI_REQUEST_NULL;
    GPTQ_MPI(
        MPI_Iallreduce(mine, all.data(), static_cast<int>(all.size()), type, operation, comm_, &request));
    watch_->wait(request, large);
  };
  if (!large) {
    if (!values.empty()) reduce(MPI_IN_PLACE, values);
    return;
  }
  meet();
  // Open MPI sends large messages round a ring, which moves the fewest bytes, but never in place.
  const std::size_t piece = std::min(pieces_.reduced / sizeof(T), values.size());
  std::vector<T> mine(piece);
  for (std::size_t first = 0; first < values.size(); first += piece) {
    const std::span<T> part = values.subspan(first, std::min(piece, values.size() - first));
    std::copy(part.begin(), part.end(), mine.begin());
    if (first > 0) enter(name);
    reduce(mine.data(), part);
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
  enter("gather");
  Underway underway;
  std::vector<std::int64_t>& sizes = underway.sizes;
  sizes.resize(static_cast<std::size_t>(size_) + 1);  // the last one is this rank's
  sizes.back() = static_cast<std::int64_t>(mine.size());
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Iallgather(&sizes.back(), 1, MPI_INT64_T, sizes.data(), 1, MPI_INT64_T, comm_, &request));
  watch_->wait(request);
  std::vector<std::vector<std::byte>>& all = underway.received;
  all.resize(static_cast<std::size_t>(size_));
  for (int rank = 0; rank < size_; ++rank) {
    auto& part = all[static_cast<std::size_t>(rank)];
    if (rank == rank_) {
      part.assign(mine.begin(), mine.end());
    } else {
      part.resize(static_cast<std::size_t>(sizes[static_cast<std::size_t>(rank)]));
    }
    send_all("gather", part.data(), part.size(), rank);
  }
  underway.over = true;
  return std::move(all);
}

void MpiCommunicator::wait_outside(const char* operation,
                                   const std::function<std::optional<double>()>& waiting) {
  enter(operation);
  watch_->wait_outside(waiting);
}

}  // namespace gptq
