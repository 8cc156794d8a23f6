#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"

namespace gptq {

/// Waits for nonblocking collectives of one communicator, and finds out which ranks hang when one takes too
/// long.
///
/// Ranks that wait answer questions of the root on a communicator of their own. Who has waited for `timeout`
/// reports to the root; the root then calls the roll, and whoever does not answer is not waiting: it hangs,
/// was stopped, or is still busy. If the root itself is silent, the ranks that reported end the job after
/// `grace`.
class RankWatch {
 public:
  struct Timing {
    double timeout = 1800;  ///< seconds in a collective before the others are asked for
    double roll_call = 2;   ///< seconds a waiting rank has to answer
    double grace = 10;      ///< seconds the root has to end the job once it was told
  };

  RankWatch(MPI_Comm parent, Timing timing);  ///< collective
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  void set_timeout(double seconds) { timing_.timeout = seconds; }

  /// Names the collective that the next calls of `wait` belong to.
  void enter(const char* collective);
  /// Returns when the request is complete. `moving`: all ranks are known to be in it, so that it only takes
  /// as long as its bytes take; the wait is then busier. Throws CommError naming the ranks that hang.
  void wait(MPI_Request& request, bool moving = false);
  /// The same for something that is no MPI collective (Communicator::wait_outside).
  void wait_outside(const std::function<std::optional<double>()>& waiting);

 private:
  /// Where a rank waits; also the message between ranks.
  struct Position {
    std::int64_t call = 0;    ///< number of the roll call that is answered
    std::int64_t number = 0;  ///< collectives begun so far on this communicator
    double seconds = 0;       ///< in this one
    char name[24] = {};
  };
  struct Process {
    std::int64_t pid = 0;
    char host[120] = {};
  };
  struct Sent {
    Position message;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  /// Waits until `look` returns true; it keeps waited_ up to date.
  template <typename Look>
  void wait_until(double busy_seconds, Look&& look);
  void start_over();  ///< nobody was told or asked about this wait yet
  Position here() const;
  void send(const Position& message, int to, int tag);
  bool receive(int from, int tag, Position& message, int& sender);
  void attend();  ///< answers, reports, calls the roll: whatever is due now
  void answer_root();
  void hear_late_ranks();
  void report_late();
  void call_roll(int late_rank, const Position& late);
  std::vector<Position> answers();
  [[noreturn]] void throw_missing(const std::vector<int>& missing, double seconds) const;
  std::string name_of(int rank) const;

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  Timing timing_;
  std::vector<Process> processes_;
  std::list<Sent> sent_;  ///< messages on their way; a rank that hangs never takes its own
  Position position_;
  Stopwatch entered_;
  double waited_ = 0;          ///< seconds for others in this collective, as of the last look
  bool reported_ = false;      ///< to the root, as late
  bool called_ = false;        ///< by the root, since this rank entered
  double next_roll_call_ = 0;  ///< seconds of waiting; root only
  int inconclusive_ = 0;       ///< roll calls of this collective that everybody answered
  std::int64_t calls_ = 0;
};

}  // namespace gptq
