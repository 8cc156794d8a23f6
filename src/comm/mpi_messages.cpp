// Messages between two ranks, and the collectives of MpiCommunicator that are made of them.

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "comm/mpi_check.h"
#include "comm/mpi_communicator.h"
#include "comm/mpi_transfer.h"

namespace gptq {
namespace {

enum InnerTag : int { kScatter = Communicator::kTags, kAllToAll };

std::vector<std::int64_t> sizes_of(std::span<const std::span<const std::byte>> parts) {
  std::vector<std::int64_t> sizes;
  for (const auto& part : parts) sizes.push_back(static_cast<std::int64_t>(part.size()));
  return sizes;
}

std::size_t total(std::span<const std::int64_t> sizes) {
  return static_cast<std::size_t>(std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}));
}

}  // namespace

void MpiCommunicator::begin_send(std::span<const std::byte> data, int to, int tag,
                                 std::vector<MPI_Request>& requests) {
  for (std::size_t first = 0; first < data.size(); first += pieces_.sent) {
    const auto piece = data.subspan(first, std::min(pieces_.sent, data.size() - first));
    requests.push_back(MPI_REQUEST_NULL);
    GPTQ_MPI(
        MPI_Isend(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, to, tag, comm_, &requests.back()));
  }
}

void MpiCommunicator::begin_receive(std::span<std::byte> data, int from, int tag,
                                    std::vector<MPI_Request>& requests) {
  for (std::size_t first = 0; first < data.size(); first += pieces_.sent) {
    const auto piece = data.subspan(first, std::min(pieces_.sent, data.size() - first));
    requests.push_back(MPI_REQUEST_NULL);
    GPTQ_MPI(MPI_Irecv(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, from, tag, comm_,
                       &requests.back()));
  }
}

std::unique_ptr<Transfer> MpiCommunicator::send(std::span<const std::byte> data, int to, int tag) {
  GPTQ_EXPECT(tag >= 0 && tag < kTags);
  auto message = std::make_unique<SentMessage>(watch_, world_rank(to), data.size());
  message->requests().push_back(MPI_REQUEST_NULL);
  GPTQ_MPI(MPI_Isend(message->size(), 1, MPI_INT64_T, to, tag, comm_, &message->requests().back()));
  begin_send(data, to, tag, message->requests());
  return message;
}

std::unique_ptr<Transfer> MpiCommunicator::receive(std::span<std::byte> data, int from, int tag) {
  GPTQ_EXPECT(tag >= 0 && tag < kTags);
  auto message = std::make_unique<ReceivedMessage>(watch_, world_rank(from), data.size(), tag);
  message->requests().push_back(MPI_REQUEST_NULL);
  GPTQ_MPI(MPI_Irecv(message->size(), 1, MPI_INT64_T, from, tag, comm_, &message->requests().back()));
  begin_receive(data, from, tag, message->requests());
  return message;
}

void MpiCommunicator::wait_for_messages(const char* what, int peer, const std::function<bool()>& done) {
  if (done()) return;
  watch_->enter_message(what, world_rank(peer));
  watch_->wait_for(done);
}

std::unique_ptr<Transfer> MpiCommunicator::begin_max(std::span<std::int64_t> values) {
  return std::make_unique<BegunMaximum>(watch_, team_, comm_, values, unfinished_);
}

/// Each piece has the whole of the time-out.
void MpiCommunicator::wait_all(const char* collective, std::int64_t number,
                               std::vector<MPI_Request>& requests, bool moving) {
  for (MPI_Request& request : requests) {
    watch_->enter(collective, team_, number);
    watch_->wait(request, moving);
  }
}

std::vector<std::byte> MpiCommunicator::scatter(std::span<const std::span<const std::byte>> parts, int root) {
  const bool is_source = rank_ == root;
  GPTQ_EXPECT(!is_source || parts.size() == static_cast<std::size_t>(size_));
  Underway underway;
  std::vector<std::int64_t>& sizes = underway.sizes;
  if (is_source) sizes = sizes_of(parts);
  sizes.resize(static_cast<std::size_t>(size_));
  const std::int64_t number = watch_->begin(team_);
  watch_->enter("scatter", team_, number);
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Ibcast(sizes.data(), size_, MPI_INT64_T, root, comm_, &request));
  watch_->wait(request);
  const bool large = total(sizes) >= pieces_.large;
  if (large) meet();
  std::vector<std::byte>& own = underway.received.emplace_back();
  if (is_source) {
    const auto part = parts[static_cast<std::size_t>(rank_)];
    own.assign(part.begin(), part.end());
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != rank_) begin_send(parts[static_cast<std::size_t>(rank)], rank, kScatter, underway.messages);
    }
  } else {
    own.resize(static_cast<std::size_t>(sizes[static_cast<std::size_t>(rank_)]));
    begin_receive(own, root, kScatter, underway.messages);
  }
  wait_all("scatter", number, underway.messages, large);
  underway.over = true;
  return std::move(own);
}

std::vector<std::vector<std::byte>> MpiCommunicator::all_to_all(
    std::span<const std::span<const std::byte>> parts) {
  GPTQ_EXPECT(parts.size() == static_cast<std::size_t>(size_));
  const auto ranks = static_cast<std::size_t>(size_);
  Underway underway;
  // First what this rank has for each other, then what each has for it.
  underway.sizes = sizes_of(parts);
  underway.sizes.resize(2 * ranks);
  const std::span<std::int64_t> mine(underway.sizes.data(), ranks), theirs(mine.data() + ranks, ranks);
  const std::int64_t number = watch_->begin(team_);
  watch_->enter("exchange", team_, number);
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Ialltoall(mine.data(), 1, MPI_INT64_T, theirs.data(), 1, MPI_INT64_T, comm_, &request));
  watch_->wait(request);  // it has heard of all ranks: they are here
  underway.received.resize(ranks);
  // Each begins with the rank behind it, so that not all send to one.
  for (int step = 1; step < size_; ++step) {
    const auto from = static_cast<std::size_t>((rank_ + size_ - step) % size_);
    underway.received[from].resize(static_cast<std::size_t>(theirs[from]));
    begin_receive(underway.received[from], static_cast<int>(from), kAllToAll, underway.messages);
  }
  for (int step = 1; step < size_; ++step) {
    const int to = (rank_ + step) % size_;
    begin_send(parts[static_cast<std::size_t>(to)], to, kAllToAll, underway.messages);
  }
  wait_all("exchange", number, underway.messages, std::max(total(mine), total(theirs)) >= pieces_.large);
  const auto own = parts[static_cast<std::size_t>(rank_)];
  underway.received[static_cast<std::size_t>(rank_)].assign(own.begin(), own.end());
  underway.over = true;
  return std::move(underway.received);
}

}  // namespace gptq
