// Messages between two ranks, and the collectives of MpiCommunicator that are made of them.

#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <utility>

#include "base/error.h"
#include "comm/mpi_check.h"
#include "comm/mpi_communicator.h"

namespace gptq {
namespace {

enum InnerTag : int { kScatter = Communicator::kTags, kAllToAll };

/// Forgets requests when an error unwinds: the program ends soon.
void give_up(std::vector<MPI_Request>& requests) {
  for (MPI_Request& request : requests) {
    if (request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&request);
    MPI_Request_free(&request);
  }
}

/// Requests that are waited for on their own, outside a collective.
class MpiTransfer : public Transfer {
 public:
  MpiTransfer(std::shared_ptr<RankWatch> watch, std::vector<MPI_Request> requests)
      : watch_(std::move(watch)), requests_(std::move(requests)) {}
  ~MpiTransfer() override { give_up(requests_); }
  MpiTransfer(const MpiTransfer&) = delete;
  MpiTransfer& operator=(const MpiTransfer&) = delete;

  bool done() override {
    for (; next_ < requests_.size(); ++next_) {
      int done = 0;
      MPI_Status status;
      GPTQ_MPI(MPI_Test(&requests_[next_], &done, &status));
      if (done == 0) return false;
      check(next_, status);
    }
    return true;
  }
  void wait() override {
    if (done()) return;
    enter(*watch_);
    watch_->wait_for([this] { return done(); });
  }

 protected:
  virtual void enter(RankWatch& watch) = 0;
  virtual void check(std::size_t, const MPI_Status&) {}

 private:
  std::shared_ptr<RankWatch> watch_;
  std::vector<MPI_Request> requests_;
  std::size_t next_ = 0;
};

class SentMessage final : public MpiTransfer {
 public:
  SentMessage(std::shared_ptr<RankWatch> watch, std::vector<MPI_Request> requests, int to)
      : MpiTransfer(std::move(watch), std::move(requests)), to_(to) {}

 private:
  void enter(RankWatch& watch) override { watch.enter_message("send", to_); }

  int to_;
};

class ReceivedMessage final : public MpiTransfer {
 public:
  ReceivedMessage(std::shared_ptr<RankWatch> watch, std::vector<MPI_Request> requests, int from, int tag,
                  std::size_t bytes, std::size_t piece)
      : MpiTransfer(std::move(watch), std::move(requests)),
        from_(from),
        tag_(tag),
        bytes_(bytes),
        piece_(piece) {}

 private:
  void enter(RankWatch& watch) override { watch.enter_message("receive", from_); }
  void check(std::size_t piece, const MPI_Status& status) override {
    int came = 0;
    GPTQ_MPI(MPI_Get_count(&status, MPI_BYTE, &came));
    const std::size_t expected = std::min(piece_, bytes_ - piece * piece_);
    if (static_cast<std::size_t>(came) == expected) return;
    throw CommError(
        "a message of {} bytes came from rank {} (tag {}) where {} were expected: a defect of this program, "
        "or "
        "ranks that run different versions of it",
        came, from_, tag_, expected);
  }

  int from_, tag_;
  std::size_t bytes_, piece_;
};

class BegunCollective final : public MpiTransfer {
 public:
  BegunCollective(std::shared_ptr<RankWatch> watch, MPI_Request request, const char* name,
                  RankWatch::TeamId team, std::int64_t number)
      : MpiTransfer(std::move(watch), {request}), name_(name), team_(team), number_(number) {}

 private:
  void enter(RankWatch& watch) override { watch.enter(name_, team_, number_); }

  const char* name_;
  RankWatch::TeamId team_;
  std::int64_t number_;
};

std::vector<std::int64_t> sizes_of(std::span<const std::span<const std::byte>> parts) {
  std::vector<std::int64_t> sizes;
  for (const auto& part : parts) sizes.push_back(static_cast<std::int64_t>(part.size()));
  return sizes;
}

std::size_t total(const std::vector<std::int64_t>& sizes) {
  return static_cast<std::size_t>(std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}));
}

}  // namespace

std::vector<MPI_Request> MpiCommunicator::begin_send(std::span<const std::byte> data, int to, int tag) {
  std::vector<MPI_Request> requests;
  for (std::size_t first = 0; first < data.size(); first += pieces_.sent) {
    const auto piece = data.subspan(first, std::min(pieces_.sent, data.size() - first));
    requests.push_back(MPI_REQUEST_NULL);
    GPTQ_MPI(
        MPI_Isend(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, to, tag, comm_, &requests.back()));
  }
  return requests;
}

std::vector<MPI_Request> MpiCommunicator::begin_receive(std::span<std::byte> data, int from, int tag) {
  std::vector<MPI_Request> requests;
  for (std::size_t first = 0; first < data.size(); first += pieces_.sent) {
    const auto piece = data.subspan(first, std::min(pieces_.sent, data.size() - first));
    requests.push_back(MPI_REQUEST_NULL);
    GPTQ_MPI(MPI_Irecv(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, from, tag, comm_,
                       &requests.back()));
  }
  return requests;
}

void MpiCommunicator::wait_all(std::vector<MPI_Request>& requests, bool moving) {
  for (MPI_Request& request : requests) watch_->wait(request, moving);
}

std::unique_ptr<Transfer> MpiCommunicator::send(std::span<const std::byte> data, int to, int tag) {
  GPTQ_EXPECT(tag >= 0 && tag < kTags);
  return std::make_unique<SentMessage>(watch_, begin_send(data, to, tag),
                                       world_ranks_.at(static_cast<std::size_t>(to)));
}

std::unique_ptr<Transfer> MpiCommunicator::receive(std::span<std::byte> data, int from, int tag) {
  GPTQ_EXPECT(tag >= 0 && tag < kTags);
  return std::make_unique<ReceivedMessage>(watch_, begin_receive(data, from, tag),
                                           world_ranks_.at(static_cast<std::size_t>(from)), tag, data.size(),
                                           pieces_.sent);
}

void MpiCommunicator::wait_for_messages(const char* what, int peer, const std::function<bool()>& done) {
  if (done()) return;
  watch_->enter_message(what, world_ranks_.at(static_cast<std::size_t>(peer)));
  watch_->wait_for(done);
}

std::unique_ptr<Transfer> MpiCommunicator::begin_max(std::span<std::int64_t> values) {
  const std::int64_t number = watch_->begin(team_);
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Iallreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_INT64_T, MPI_MAX,
                          comm_, &request));
  return std::make_unique<BegunCollective>(watch_, request, "maximum", team_, number);
}

std::vector<std::byte> MpiCommunicator::scatter(std::span<const std::span<const std::byte>> parts, int root) {
  const bool is_source = rank_ == root;
  GPTQ_EXPECT(!is_source || parts.size() == static_cast<std::size_t>(size_));
  std::vector<std::int64_t> sizes = is_source ? sizes_of(parts) : std::vector<std::int64_t>();
  sizes.resize(static_cast<std::size_t>(size_));
  enter("scatter");
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Ibcast(sizes.data(), size_, MPI_INT64_T, root, comm_, &request));
  watch_->wait(request);
  const bool large = total(sizes) >= pieces_.large;
  if (large) meet();
  std::vector<MPI_Request> requests;
  if (is_source) {
    for (int rank = 0; rank < size_; ++rank) {
      if (rank == rank_) continue;
      for (const MPI_Request next : begin_send(parts[static_cast<std::size_t>(rank)], rank, kScatter))
        requests.push_back(next);
    }
    wait_all(requests, large);
    const auto own = parts[static_cast<std::size_t>(rank_)];
    return {own.begin(), own.end()};
  }
  std::vector<std::byte> own(static_cast<std::size_t>(sizes[static_cast<std::size_t>(rank_)]));
  requests = begin_receive(own, root, kScatter);
  wait_all(requests, large);
  return own;
}

std::vector<std::vector<std::byte>> MpiCommunicator::all_to_all(
    std::span<const std::span<const std::byte>> parts) {
  GPTQ_EXPECT(parts.size() == static_cast<std::size_t>(size_));
  const std::vector<std::int64_t> mine = sizes_of(parts);
  std::vector<std::int64_t> theirs(mine.size());
  enter("exchange");
  MPI_Request request = MPI_REQUEST_NULL;
  GPTQ_MPI(MPI_Ialltoall(mine.data(), 1, MPI_INT64_T, theirs.data(), 1, MPI_INT64_T, comm_, &request));
  watch_->wait(request);  // it has heard of all ranks: they are here
  std::vector<std::vector<std::byte>> received(theirs.size());
  std::vector<MPI_Request> requests;
  // Each begins with the rank behind it, so that not all send to one.
  for (int step = 1; step < size_; ++step) {
    const auto from = static_cast<std::size_t>((rank_ + size_ - step) % size_);
    received[from].resize(static_cast<std::size_t>(theirs[from]));
    for (const MPI_Request next : begin_receive(received[from], static_cast<int>(from), kAllToAll))
      requests.push_back(next);
  }
  for (int step = 1; step < size_; ++step) {
    const auto to = static_cast<std::size_t>((rank_ + step) % size_);
    for (const MPI_Request next : begin_send(parts[to], static_cast<int>(to), kAllToAll))
      requests.push_back(next);
  }
  wait_all(requests, std::max(total(mine), total(theirs)) >= pieces_.large);
  const auto own = parts[static_cast<std::size_t>(rank_)];
  received[static_cast<std::size_t>(rank_)].assign(own.begin(), own.end());
  return received;
}

}  // namespace gptq
