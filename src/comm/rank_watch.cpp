#include "comm/rank_watch.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/process.h"
#include "comm/mpi_check.h"
#include "comm/watch_tags.h"

namespace gptq {
namespace {

constexpr RankWatch::TeamId kFirstId = 1;

/// A small message among ranks that are all here takes less than giving the core away.
constexpr double kRushSeconds = 10e-6;
/// Ranks that come nearly together meet while they spin; after that the cores belong to those who still work.
constexpr double kSpinSeconds = 1e-3;
/// Bytes that move need this process to turn MPI's wheels; a rank that stops in the middle ends the hurry.
constexpr double kMovingSeconds = 10;
constexpr double kAttendSeconds = 0.02;
/// No more counts of the time between two looks of a rank that waits: it was stopped, or got no core.
constexpr double kLongestStep = 1;

/// A rank that waits for long sleeps for longer, so that the cores are free; it never adds more than a
/// hundredth.
std::chrono::duration<double> nap_after(double waited) {
  return std::chrono::duration<double>(std::clamp(waited / 100, 50e-6, 1e-3));
}

/// Says for as long as it lives that this rank waits.
class Waiting {
 public:
  explicit Waiting(bool& flag) : flag_(flag) { flag_ = true; }
  ~Waiting() { flag_ = false; }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  bool& flag_;
};

}  // namespace

RankWatch::RankWatch(MPI_Comm parent, Timing timing) : timing_(timing), next_id_(kFirstId) {
  GPTQ_MPI(MPI_Comm_dup(parent, &comm_));
  GPTQ_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  GPTQ_MPI(MPI_Comm_rank(comm_, &rank_));
  GPTQ_MPI(MPI_Comm_size(comm_, &size_));
  Process self;
  self.pid = getpid();
  std::snprintf(self.host, sizeof(self.host), "%s", host_name().c_str());
  processes_.resize(static_cast<std::size_t>(size_));
  GPTQ_MPI(MPI_Allgather(&self, sizeof(self), MPI_BYTE, processes_.data(), sizeof(self), MPI_BYTE, comm_));
  position_.team = kBusy;
}

RankWatch::~RankWatch() {
  for (Sent& sent : sent_) {
    if (sent.request != MPI_REQUEST_NULL) MPI_Cancel(&sent.request);
    if (sent.request != MPI_REQUEST_NULL) MPI_Request_free(&sent.request);
  }
  // Its communicator stays until MPI_Finalize: a word to a rank that waits no longer may still be on its way,
  // and would come to the next communicator that gets the number of this one.
}

void RankWatch::add_team(TeamId id, std::vector<int> ranks) {
  GPTQ_EXPECT(id >= next_id_ && !ranks.empty());
  teams_[id].ranks = std::move(ranks);
  next_id_ = id + 1;
}

void RankWatch::forget_team(TeamId id) {
  teams_.erase(id);
  roll_calls_.remove_if([&](const RollCall& roll) { return roll.late.position.team == id; });
  std::erase_if(late_, [&](const Late& late) { return late.position.team == id; });
}

std::int64_t RankWatch::begin(TeamId team) {
  return ++teams_.at(team).begun;
}

void RankWatch::enter(const char* collective, TeamId team, std::int64_t number) {
  GPTQ_EXPECT(team <= kMessage || teams_.contains(team));  // it must outlive what was begun in it
  position_.team = team;
  position_.number = number;
  ++position_.wait;
  std::snprintf(position_.name, sizeof(position_.name), "%s", collective);
  start_over();
}

void RankWatch::enter_message(const char* message, int peer) {
  enter(message, kMessage - peer, 0);
}

void RankWatch::start_over() {
  waited_ = 0;
  reported_ = called_ = left_ = false;
  next_report_ = timing_.timeout;
}

double RankWatch::fair(double step) const {
  return std::min(step, std::min(kLongestStep, timing_.timeout / 4));
}

template <typename Look>
void RankWatch::wait_until(double busy_seconds, Look&& look) {
  const Waiting here(waiting_);
  const Stopwatch waiting;
  double next_look_around = kAttendSeconds;
  while (!look()) {
    const double now = waiting.seconds();
    if (now >= next_look_around) {
      look_around();
      next_look_around = now + kAttendSeconds;
    }
    if (now < kRushSeconds) continue;
    if (idle_work_) idle_work_();
    if (now < busy_seconds) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(nap_after(now));
    }
  }
}

void RankWatch::wait(MPI_Request& request, bool moving) {
  wait_for(
      [&] {
        int done = 0;
        GPTQ_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
        return done != 0;
      },
      moving);
}

void RankWatch::wait_for(const std::function<bool()>& done, bool moving) {
  const Stopwatch waiting;
  double before = 0;
  wait_until(moving ? kMovingSeconds : kSpinSeconds, [&] {
    const double now = waiting.seconds();
    waited_ += fair(now - before);
    before = now;
    return done();
  });
  if (!moving) waited_before_ += waiting.seconds();
}

void RankWatch::wait_outside(const std::function<std::optional<double>()>& waiting) {
  std::optional<double> before;
  wait_until(kSpinSeconds, [&] {
    const std::optional<double> seconds = waiting();
    if (!seconds) return true;
    if (before && *seconds < *before) {  // what it waited for came, and it waits for the next
      ++position_.wait;
      start_over();
      before = 0;
    }
    // It may have begun to wait before this call.
    waited_ += before ? fair(*seconds - *before) : *seconds;
    waited_before_ += *seconds - before.value_or(0);
    before = seconds;
    return false;
  });
}

void RankWatch::attend() {
  if (size_ == 1 || since_attended_.seconds() < kAttendSeconds) return;
  look_around();
}

RankWatch::Position RankWatch::here() const {
  Position position = position_;
  position.seconds = waited_;
  if (waiting_) return position;
  position.team = kBusy;
  position.seconds = 0;
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

void RankWatch::look_around() {
  clock_ += std::min(since_attended_.seconds(), answer_time() / 2);
  since_attended_ = Stopwatch();
  hear_all();
  if (waiting_) report_late();
  start_roll_calls();
  settle_roll_calls();
}

/// One probe for all kinds of messages: where there are more ranks than cores, MPI gives the core away in
/// each.
void RankWatch::hear_all() {
  while (true) {
    int found = 0;
    MPI_Status status;
    GPTQ_MPI(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &found, &status));
    if (!found) break;
    Position message;
    GPTQ_MPI(MPI_Recv(&message, sizeof(Position), MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG, comm_,
                      MPI_STATUS_IGNORE));
    hear(message, status.MPI_SOURCE, status.MPI_TAG);
  }
}

void RankWatch::hear(const Position& message, int sender, int tag) {
  if (tag == kCall) answer(message, sender);
  if (tag == kHere) note_answer(message, sender);
  if (tag == kGoOn) go_on(message);
  if (tag == kLate) hear_late(message, sender);
  if (tag == kLeft) look_elsewhere(message, sender);
}

/// What a rank said before is stale.
void RankWatch::hear_late(const Position& late, int sender) {
  if (!teams_.contains(late.team)) return send(late, sender, kLeft);
  std::erase_if(late_,
                [&](const Late& other) { return other.rank == sender && other.position.team == late.team; });
  late_.push_back({sender, late});
}

int RankWatch::asks_for(TeamId team) const {
  return team <= kMessage ? rank_ : teams_.at(team).ranks.front();
}

void RankWatch::answer(const Position& call, int sender) {
  Position answer = here();
  answer.call = call.call;
  send(answer, sender, kHere);
  if (!waiting_ || sender != asks_for(position_.team)) return;
  called_ = true;
  heard_at_ = waited_;
}

void RankWatch::go_on(const Position& told) {
  if (!waiting_ || told.wait != position_.wait) return;  // that wait is over
  reported_ = called_ = false;
  next_report_ = std::max(next_report_, waited_ + timing_.roll_call);
}

/// The rank that was told left the team in peace: this one should have what it waits for very soon.
void RankWatch::look_elsewhere(const Position& told, int sender) {
  if (!waiting_ || told.wait != position_.wait || told.team != position_.team) return;
  if (left_) {
    throw CommError(
        "waited {:.1f} s in {}, which {} has left long ago: another of its ranks hangs, or the network lost "
        "a message; run the same command again",
        waited_, operation_text(position_), name_of(sender));
  }
  left_ = true;
  reported_ = called_ = false;
  next_report_ = waited_ + timing_.timeout;
}

void RankWatch::report_to(int told) {
  if (told == rank_) {
    late_.push_back({rank_, here()});
  } else {
    send(here(), told, kLate);
  }
  next_reminder_ = waited_ + answer_time();
}

void RankWatch::report_late() {
  if (waited_ < next_report_) return;
  const int told = asks_for(position_.team);
  if (!reported_) {
    report_to(told);
    reported_ = true;
    heard_at_ = waited_;
  }
  if (told == rank_) return;
  if (waited_ >= next_reminder_) report_to(told);
  const double silent = waited_ - heard_at_;
  // It has to hear of it first, and then to wait for answers.
  if (!called_ && silent >= answer_time() + timing_.grace) throw_missing({told}, here());
  if (!called_ || silent < longest_roll_call() + timing_.grace) return;
  throw CommError(
      "waited {:.1f} s in {}; {} looked for the ranks that hang, but did not end the job: see what it says",
      waited_, operation_text(position_), name_of(told));
}

}  // namespace gptq
