#pragma once

#include <mpi.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/rank_watch.h"

/// What MpiCommunicator has under way outside its collectives.
namespace gptq {

/// A message in pieces behind its size, so that a size that differs at the other end is found.
class MpiMessage : public Transfer {
 public:
  MpiMessage(std::shared_ptr<RankWatch> watch, int peer, std::size_t bytes)
      : size_(static_cast<std::int64_t>(bytes)), watch_(std::move(watch)), peer_(peer) {}
  MpiMessage(const MpiMessage&) = delete;
  MpiMessage& operator=(const MpiMessage&) = delete;

  std::vector<MPI_Request>& requests() { return requests_; }  ///< the size's first, then those of its pieces
  std::int64_t* size() { return &size_; }                     ///< to be sent, or received

  bool done() override;
  void wait() override;

 protected:
  virtual const char* name() const = 0;
  virtual void check_size() const {}  ///< it came

  std::int64_t size_;
  std::shared_ptr<RankWatch> watch_;
  int peer_;  ///< its number in the watch
  std::vector<MPI_Request> requests_;
  std::size_t next_ = 0;
};

class SentMessage final : public MpiMessage {
 public:
  using MpiMessage::MpiMessage;
  ~SentMessage() override;

 private:
  const char* name() const override { return "send"; }
};

class ReceivedMessage final : public MpiMessage {
 public:
  ReceivedMessage(std::shared_ptr<RankWatch> watch, int peer, std::size_t bytes, int tag)
      : MpiMessage(std::move(watch), peer, 0), expected_(static_cast<std::int64_t>(bytes)), tag_(tag) {}
  ~ReceivedMessage() override;

 private:
  const char* name() const override { return "receive"; }
  void check_size() const override;

  std::int64_t expected_;
  int tag_;
};

/// A maximum that was begun. MPI cannot give up a collective: memory and request of one that is not waited
/// for stay until the end of the program.
class BegunMaximum final : public Transfer {
 public:
  /// unfinished: counts those of a communicator. Collective.
  BegunMaximum(std::shared_ptr<RankWatch> watch, RankWatch::TeamId team, MPI_Comm comm,
               std::span<std::int64_t> values, std::shared_ptr<int> unfinished);
  ~BegunMaximum() override;
  BegunMaximum(const BegunMaximum&) = delete;
  BegunMaximum& operator=(const BegunMaximum&) = delete;

  bool done() override;
  void wait() override;

 private:
  struct Memory {
    std::vector<std::int64_t> values;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  std::shared_ptr<RankWatch> watch_;
  RankWatch::TeamId team_;
  std::int64_t number_;
  std::span<std::int64_t> values_;
  std::shared_ptr<int> unfinished_;
  std::unique_ptr<Memory> memory_;
};

/// What a collective that is made of several operations has under way, and the memory that they write to.
/// After an error the memory stays until the end of the program, because they may still do so.
struct Underway {
  std::vector<std::int64_t> sizes;  ///< a small collective's
  std::vector<std::vector<std::byte>> received;
  std::vector<MPI_Request> messages;
  bool over = false;  ///< set when all is done

  Underway() = default;
  ~Underway();
  Underway(const Underway&) = delete;
  Underway& operator=(const Underway&) = delete;
};

}  // namespace gptq
