#include "comm/mpi_transfer.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "comm/mpi_check.h"

namespace gptq {
namespace {

/// Taking back a receive is done at once, unless its message is half here.
constexpr double kTakeBackSeconds = 0.1;

/// When an error unwinds: the program ends soon, and nobody may touch the caller's memory any more.
void take_back(std::vector<MPI_Request>& requests) {
  const Stopwatch trying;
  for (MPI_Request& request : requests) {
    if (request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&request);
    int done = 0;
    do {
      MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    } while (done == 0 && trying.seconds() < kTakeBackSeconds);
    if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
  }
}

void let_go(std::vector<MPI_Request>& requests) {
  for (MPI_Request& request : requests) {
    if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
  }
}

/// What stays until the end of the program.
template <typename T>
void keep_for_ever(T&& thing) {
  static auto& kept = *new std::vector<std::decay_t<T>>();
  kept.push_back(std::forward<T>(thing));
}

}  // namespace

// ---- messages

bool MpiMessage::done() {
  for (; next_ < requests_.size(); ++next_) {
    int done = 0;
    GPTQ_MPI(MPI_Test(&requests_[next_], &done, MPI_STATUS_IGNORE));
    if (done == 0) return false;
    if (next_ == 0) check_size();
  }
  return true;
}

void MpiMessage::wait() {
  if (done()) return;
  watch_->enter_message(name(), peer_);
  watch_->wait_for([this] { return done(); });
}

SentMessage::~SentMessage() {
  let_go(requests_);
}

ReceivedMessage::~ReceivedMessage() {
  take_back(requests_);
}

void ReceivedMessage::check_size() const {
  if (size_ == expected_) return;
  throw CommError(
      "a message of {} bytes came from rank {} (tag {}) where {} were expected: a defect of this program, or "
      "ranks that run different versions of it",
      size_, peer_, tag_, expected_);
}

// ---- a collective

BegunMaximum::BegunMaximum(std::shared_ptr<RankWatch> watch, RankWatch::TeamId team, MPI_Comm comm,
                           std::span<std::int64_t> values, std::shared_ptr<int> unfinished)
    : watch_(std::move(watch)),
      team_(team),
      number_(watch_->begin(team)),
      values_(values),
      unfinished_(std::move(unfinished)),
      memory_(std::make_unique<Memory>()) {
  memory_->values.assign(values.begin(), values.end());
  GPTQ_MPI(MPI_Iallreduce(MPI_IN_PLACE, memory_->values.data(), static_cast<int>(values.size()), MPI_INT64_T,
                          MPI_MAX, comm, &memory_->request));
  ++*unfinished_;
}

BegunMaximum::~BegunMaximum() {
  if (memory_ != nullptr) keep_for_ever(std::move(memory_));
}

bool BegunMaximum::done() {
  if (memory_ == nullptr) return true;
  int done = 0;
  GPTQ_MPI(MPI_Test(&memory_->request, &done, MPI_STATUS_IGNORE));
  if (done == 0) return false;
  std::copy(memory_->values.begin(), memory_->values.end(), values_.begin());
  memory_.reset();
  --*unfinished_;
  return true;
}

void BegunMaximum::wait() {
  if (done()) return;
  watch_->enter("maximum", team_, number_);
  watch_->wait_for([this] { return done(); });
}

// ---- inside collectives

Underway::~Underway() {
  if (over) return;
  let_go(messages);
  keep_for_ever(std::move(sizes));
  keep_for_ever(std::move(received));
}

}  // namespace gptq
