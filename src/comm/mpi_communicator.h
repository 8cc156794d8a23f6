#pragma once

#include <mpi.h>

#include <memory>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "comm/rank_watch.h"

namespace gptq {

/// Owner of an MPI communicator. Every collective is a nonblocking call that RankWatch waits for; those split
/// from one communicator share its watch.
class MpiCommunicator final : public Communicator {
 public:
  /// How messages are cut, in bytes. The same on every rank.
  struct Pieces {
    std::size_t large = std::size_t{1} << 18;    ///< from here on the way there costs more than the meeting
    std::size_t reduced = std::size_t{1} << 23;  ///< of a large reduction, under way together
    std::size_t sent = std::size_t{1} << 27;     ///< of a broadcast or a message; MPI counts are ints
  };

  explicit MpiCommunicator(MPI_Comm parent, RankWatch::Timing timing = {})
      : MpiCommunicator(parent, timing, Pieces{}) {}
  MpiCommunicator(MPI_Comm parent, RankWatch::Timing timing, Pieces pieces);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool covers_world() const override { return size_ == watch_->size(); }
  int world_rank(int rank) const override { return world_ranks_.at(static_cast<std::size_t>(rank)); }
  void set_timeout(double seconds) override { watch_->set_timeout(seconds); }
  void expect_busy_ranks() override { watch_->expect_busy_ranks(); }
  void attend() override { watch_->attend(); }
  double waited_seconds() const override { return watch_->waited_seconds(); }
  double seconds_to_name() const override { return watch_->seconds_to_name(); }
  void set_idle_work(std::function<void()> work) override { watch_->set_idle_work(std::move(work)); }
  std::unique_ptr<Communicator> split(int color) override;
  void barrier() override;
  void broadcast(void* data, std::size_t bytes, int root) override;
  void all_reduce_sum(std::span<std::int64_t> values) override;
  void all_reduce_max(std::span<float> magnitudes) override;
  void all_reduce_max(std::span<std::int64_t> values) override;
  std::unique_ptr<Transfer> begin_max(std::span<std::int64_t> values) override;
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override;
  std::vector<std::byte> scatter(std::span<const std::span<const std::byte>> parts, int root) override;
  std::vector<std::vector<std::byte>> all_to_all(std::span<const std::span<const std::byte>> parts) override;
  std::unique_ptr<Transfer> send(std::span<const std::byte> data, int to, int tag) override;
  std::unique_ptr<Transfer> receive(std::span<std::byte> data, int from, int tag) override;
  void wait_for_messages(const char* what, int peer, const std::function<bool()>& done) override;
  void wait_outside(const char* operation, const std::function<std::optional<double>()>& waiting) override;

 private:
  /// Takes over `comm`; collective over its ranks.
  MpiCommunicator(MPI_Comm comm, std::shared_ptr<RankWatch> watch, RankWatch::TeamId team, Pieces pieces);
  void find_ranks();

  /// All ranks are here; before large messages, which need busy waiting.
  void meet();
  void enter(const char* collective) { watch_->enter(collective, team_); }
  template <typename T>
  void all_reduce(const char* name, std::span<T> values, MPI_Datatype type, MPI_Op operation);
  void send_all(const char* name, void* data, std::size_t bytes, int root);
  /// Begins a message in pieces, adding to `requests`.
  void begin_send(std::span<const std::byte> data, int to, int tag, std::vector<MPI_Request>& requests);
  void begin_receive(std::span<std::byte> data, int from, int tag, std::vector<MPI_Request>& requests);
  /// Inside a collective that was entered.
  void wait_all(const char* collective, std::int64_t number, std::vector<MPI_Request>& requests, bool moving);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::shared_ptr<RankWatch> watch_;
  RankWatch::TeamId team_ = 0;
  std::vector<int> world_ranks_;  ///< of each rank, its number in the watch
  Pieces pieces_;
  std::shared_ptr<int> unfinished_ = std::make_shared<int>(0);  ///< collectives that were begun
};

}  // namespace gptq
