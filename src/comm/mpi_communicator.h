#pragma once

#include <mpi.h>

#include "comm/communicator.h"
#include "comm/rank_watch.h"

namespace gptq {

/// Owner of a duplicated MPI communicator. Every collective is a nonblocking call that RankWatch waits for.
class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm parent, RankWatch::Timing timing = {});
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

 private:
  /// All ranks are here; before large messages, which need busy waiting.
  void meet();
  template <typename T>
  void all_reduce(const char* name, std::span<T> values, MPI_Datatype type, MPI_Op operation);
  void send_all(void* data, std::size_t bytes, int root);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  RankWatch watch_;
};

}  // namespace gptq
