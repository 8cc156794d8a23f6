#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace gptq {

/// A group of ranks that act together. Every member call is collective unless it says otherwise.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  bool is_root() const { return rank() == 0; }

  virtual void barrier() = 0;
  virtual void broadcast(void* data, std::size_t bytes, int root) = 0;
  virtual void all_reduce_sum(std::span<std::int64_t> values) = 0;  ///< exact, the same on every rank
  virtual void all_reduce_max(std::span<float> values) = 0;         ///< exact; a NaN anywhere gives NaN everywhere
  virtual void all_reduce_max(std::span<std::int64_t> values) = 0;
  /// Every rank's bytes, in rank order, on every rank.
  virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) = 0;
  /// Ranks that share this rank's node: their number and this rank's place among them. Not collective.
  virtual int node_ranks() const = 0;
  virtual int node_rank() const = 0;
};

/// Owns MPI_Init and MPI_Finalize. Without mpirun the world has one rank.
class MpiRuntime {
 public:
  MpiRuntime(int* argc, char*** argv);
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  std::unique_ptr<Communicator> world();
  /// Ends all ranks with this code at once; for main, after an error on one rank.
  [[noreturn]] void abort(int exit_code);
  static std::string library_version();
};

}  // namespace gptq
