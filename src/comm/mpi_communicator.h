#pragma once

#include <mpi.h>

#include "comm/communicator.h"
#include "comm/rank_watch.h"

namespace gptq {

/// Owner of a duplicated MPI communicator. Every collective is a nonblocking call that RankWatch waits for.
class MpiCommunicator final : public Communicator {
 public:
  /// How messages are cut, in bytes. The same on every rank.
  struct Pieces {
    std::size_t large = std::size_t{1} << 18;    ///< from here on the way there costs more than the meeting
    std::size_t reduced = std::size_t{1} << 23;  ///< of a large reduction, under way together
    std::size_t sent = std::size_t{1} << 27;     ///< of a broadcast; MPI counts are ints
  };

  explicit MpiCommunicator(MPI_Comm parent, RankWatch::Timing timing = {})
      : MpiCommunicator(parent, timing, Pieces{}) {}
  MpiCommunicator(MPI_Comm parent, RankWatch::Timing timing, Pieces pieces);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void set_timeout(double seconds) override { watch_.set_timeout(seconds); }
  void barrier() override;
  void broadcast(void* data, std::size_t bytes, int root) override;
  void all_reduce_sum(std::span<std::int64_t> values) override;
  void all_reduce_max(std::span<float> magnitudes) override;
  void all_reduce_max(std::span<std::int64_t> values) override;
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override;
  void wait_outside(const char* operation, const std::function<std::optional<double>()>& waiting) override;

 private:
  /// All ranks are here; before large messages, which need busy waiting.
  void meet();
  template <typename T>
  void all_reduce(const char* name, std::span<T> values, MPI_Datatype type, MPI_Op operation);
  void send_all(const char* name, void* data, std::size_t bytes, int root);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  RankWatch watch_;
  Pieces pieces_;
};

}  // namespace gptq
