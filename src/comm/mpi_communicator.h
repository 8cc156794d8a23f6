#pragma once

#include <mpi.h>

#include "comm/communicator.h"

namespace gptq {

/// Owner of a duplicated MPI communicator.
class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm parent);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override;
  void broadcast(void* data, std::size_t bytes, int root) override;
  void all_reduce_sum(std::span<std::int64_t> values) override;
  void all_reduce_max(std::span<float> magnitudes) override;
  void all_reduce_max(std::span<std::int64_t> values) override;
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override;

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace gptq
