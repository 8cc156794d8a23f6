#include "comm/rank_watch.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/process.h"
#include "comm/mpi_check.h"

namespace gptq {
namespace {

enum Tag { kLate = 1, kCall, kHere };

constexpr int kRoot = 0;
/// A small message among ranks that are all here takes less than giving the core away.
constexpr double kRushSeconds = 10e-6;
/// Ranks that come nearly together meet while they spin; after that the cores belong to those who still work.
constexpr double kSpinSeconds = 1e-3;
/// Bytes that move need this process to turn MPI's wheels; a rank that stops in the middle ends the hurry.
constexpr double kMovingSeconds = 10;
constexpr double kAttendSeconds = 0.02;

/// A rank that waits for long sleeps for longer, so that the cores are free; it never adds more than a
/// hundredth.
std::chrono::duration<double> nap_after(double waited) {
  return std::chrono::duration<double>(std::clamp(waited / 100, 50e-6, 1e-3));
}

std::string list_of(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) text += (i == 0 ? "" : ", ") + items[i];
  return text;
}

}  // namespace

RankWatch::RankWatch(MPI_Comm parent, Timing timing) : timing_(timing) {
  GPTQ_MPI(MPI_Comm_dup(parent, &comm_));
  GPTQ_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  GPTQ_MPI(MPI_Comm_rank(comm_, &rank_));
  GPTQ_MPI(MPI_Comm_size(comm_, &size_));
  Process self;
  self.pid = getpid();
  std::snprintf(self.host, sizeof(self.host), "%s", host_name().c_str());
  processes_.resize(static_cast<std::size_t>(size_));
  GPTQ_MPI(MPI_Allgather(&self, sizeof(self), MPI_BYTE, processes_.data(), sizeof(self), MPI_BYTE, comm_));
}

RankWatch::~RankWatch() {
  for (Sent& sent : sent_) {
    if (sent.request != MPI_REQUEST_NULL) MPI_Cancel(&sent.request);
    if (sent.request != MPI_REQUEST_NULL) MPI_Request_free(&sent.request);
  }
  if (MPI_Comm_free(&comm_) != MPI_SUCCESS) log::warn("an MPI communicator could not be freed");
}

void RankWatch::enter(const char* collective) {
  ++position_.number;
  std::snprintf(position_.name, sizeof(position_.name), "%s", collective);
  entered_ = Stopwatch();
  start_over();
}

void RankWatch::start_over() {
  waited_ = 0;
  reported_ = called_ = false;
  next_roll_call_ = timing_.timeout;
  inconclusive_ = 0;
}

template <typename Look>
void RankWatch::wait_until(double busy_seconds, Look&& look) {
  const Stopwatch waiting;
  double next_attend = kAttendSeconds;
  while (!look()) {
    const double now = waiting.seconds();
    if (now >= next_attend) {
      attend();
      next_attend = now + kAttendSeconds;
    }
    if (now < kRushSeconds) continue;
    if (now < busy_seconds) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(nap_after(now));
    }
  }
}

void RankWatch::wait(MPI_Request& request, bool moving) {
  wait_until(moving ? kMovingSeconds : kSpinSeconds, [&] {
    int done = 0;
    GPTQ_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
    waited_ = entered_.seconds();
    return done != 0;
  });
}

void RankWatch::wait_outside(const std::function<std::optional<double>()>& waiting) {
  wait_until(kSpinSeconds, [&] {
    const std::optional<double> seconds = waiting();
    if (!seconds) return true;
    if (*seconds < waited_) start_over();  // what it waited for came, and it waits for the next
    waited_ = *seconds;
    return false;
  });
}

RankWatch::Position RankWatch::here() const {
  Position position = position_;
  position.seconds = waited_;
  return position;
}

void RankWatch::send(const Position& message, int to, int tag) {
  sent_.remove_if([](Sent& sent) {
    int done = 0;
    GPTQ_MPI(MPI_Test(&sent.request, &done, MPI_STATUS_IGNORE));
    return done != 0;
  });
  Sent& sent = sent_.emplace_back();
  sent.message = message;
  GPTQ_MPI(MPI_Isend(&sent.message, sizeof(Position), MPI_BYTE, to, tag, comm_, &sent.request));
}

bool RankWatch::receive(int from, int tag, Position& message, int& sender) {
  int found = 0;
  MPI_Status status;
  GPTQ_MPI(MPI_Iprobe(from, tag, comm_, &found, &status));
  if (!found) return false;
  sender = status.MPI_SOURCE;
  GPTQ_MPI(MPI_Recv(&message, sizeof(Position), MPI_BYTE, sender, tag, comm_, MPI_STATUS_IGNORE));
  return true;
}

void RankWatch::attend() {
  if (rank_ == kRoot) {
    hear_late_ranks();
    if (waited_ >= next_roll_call_) call_roll(kRoot, here());
  } else {
    answer_root();
    report_late();
  }
}

void RankWatch::answer_root() {
  Position call;
  int sender = 0;
  while (receive(kRoot, kCall, call, sender)) {
    Position answer = here();
    answer.call = call.call;
    send(answer, kRoot, kHere);
    called_ = true;
  }
}

void RankWatch::report_late() {
  const double seconds = waited_;
  if (seconds < timing_.timeout) return;
  if (!reported_) send(here(), kRoot, kLate);
  reported_ = true;
  if (seconds < timing_.timeout + timing_.roll_call + timing_.grace) return;
  if (!called_) throw_missing({kRoot}, seconds);
  throw CommError(
      "waited {:.1f} s in collective operation #{} ({}); {} looked for the ranks that hang, but did not end "
      "the job: "
      "see what it says",
      seconds, position_.number, position_.name, name_of(kRoot));
}

void RankWatch::hear_late_ranks() {
  Position late;
  int sender = 0;
  while (receive(MPI_ANY_SOURCE, kLate, late, sender)) call_roll(sender, late);
}

/// Asks everybody, on behalf of a rank that has waited too long. Returns if that rank waits no longer, or if
/// everybody answers and the collective may still end.
void RankWatch::call_roll(int late_rank, const Position& late) {
  const std::vector<Position> positions = answers();
  if (positions[static_cast<std::size_t>(late_rank)].number > late.number) return;
  std::vector<int> missing;
  for (int rank = 0; rank < size_; ++rank) {
    if (positions[static_cast<std::size_t>(rank)].number == 0) missing.push_back(rank);
  }
  if (!missing.empty()) throw_missing(missing, late.seconds);
  next_roll_call_ = waited_ + timing_.roll_call;
  if (++inconclusive_ < 2) return;
  std::vector<std::string> places;
  for (int rank = 0; rank < size_; ++rank) {
    const Position& position = positions[static_cast<std::size_t>(rank)];
    places.push_back(fmt::format("{} in {} #{}", name_of(rank), position.name, position.number));
  }
  throw CommError(
      "all ranks have waited for each other for {:.0f} s: {}. If these differ it is a defect of this "
      "program, "
      "else the network lost a message; run the same command again",
      late.seconds, list_of(places));
}

/// Where each rank waits; number 0 for those that do not answer in time.
std::vector<RankWatch::Position> RankWatch::answers() {
  std::vector<Position> positions(static_cast<std::size_t>(size_));
  positions[static_cast<std::size_t>(rank_)] = here();
  Position call = here();
  call.call = ++calls_;
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_) send(call, rank, kCall);
  }
  int awaited = size_ - 1;
  const Stopwatch asked;
  while (awaited > 0 && asked.seconds() < timing_.roll_call) {
    Position answer;
    int sender = 0;
    while (receive(MPI_ANY_SOURCE, kHere, answer, sender)) {
      if (answer.call != calls_) continue;  // of an earlier roll call
      positions[static_cast<std::size_t>(sender)] = answer;
      --awaited;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return positions;
}

void RankWatch::throw_missing(const std::vector<int>& missing, double seconds) const {
  std::vector<std::string> names;
  for (int rank : missing) names.push_back(name_of(rank));
  throw CommError(
      "{} did not come to collective operation #{} ({}) in {:.1f} s: stopped, hanging, or busy for longer "
      "than "
      "comm.timeout. Look at the process there (`ps -o stat,wchan,time -p PID`), leave out its node if it is "
      "broken, raise comm.timeout if it was only slow, and run the same command again",
      list_of(names), position_.number, position_.name, seconds);
}

std::string RankWatch::name_of(int rank) const {
  const Process& process = processes_[static_cast<std::size_t>(rank)];
  return fmt::format("rank {} (process {} on {})", rank, process.pid, process.host);
}

}  // namespace gptq
