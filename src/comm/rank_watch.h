#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"

namespace gptq {

/// Waits for nonblocking operations of one process, on all of its communicators, and finds out which ranks
/// hang when one takes too long.
///
/// Ranks answer roll calls on a communicator of their own: where they wait, or that they are busy. Who has
/// waited for `timeout` in a collective reports to the first rank of that team; it calls the roll of the
/// team, and whoever does not answer hangs, was stopped, or is busy and does not attend. Who waits for a
/// message calls the roll of its sender or receiver alone. A rank that is busy but attends is waited for, and
/// asked again. If the rank that was told is silent itself, those that reported end the job after `grace`.
///
/// Ranks that wait for each other for ever in one team are found: none has moved between two roll calls.
/// Those that do so over several teams or messages are not, since each of them answers.
class RankWatch {
 public:
  struct Timing {
    double timeout = 1800;  ///< seconds in an operation before the others are asked for
    double roll_call = 2;   ///< seconds a waiting rank has to answer; also until it is asked again
    double grace = 10;      ///< seconds the first rank has to end the job once it was told
  };
  /// The ranks of a communicator. Teams of one rank have different ids; all of a team's ranks the same.
  using TeamId = std::int64_t;

  RankWatch(MPI_Comm parent, Timing timing);  ///< collective
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  void set_timeout(double seconds) { timing_.timeout = seconds; }
  /// Ranks may work for long without waiting, and answer only between their pieces of work: one is missing
  /// when it has not answered for `timeout`, not for `roll_call`.
  void expect_busy_ranks() { busy_ranks_ = true; }

  int size() const { return size_; }
  MPI_Comm comm() const { return comm_; }  ///< of all ranks, for translating their numbers
  TeamId next_id() const { return next_id_; }
  /// ranks: their numbers in this watch, in the team's order.
  void add_team(TeamId id, std::vector<int> ranks);
  void forget_team(TeamId id);

  /// Counts a collective of the team and returns its number there.
  std::int64_t begin(TeamId team);
  /// Names what the next calls of `wait` belong to: a collective that begins now, one that was begun, or a
  /// message from or to `peer`.
  void enter(const char* collective, TeamId team) { enter(collective, team, begin(team)); }
  void enter(const char* collective, TeamId team, std::int64_t number);
  void enter_message(const char* message, int peer);

  /// Returns when the request is complete. `moving`: all ranks are known to be in it, so that it only takes
  /// as long as its bytes take; the wait is then busier. Throws CommError naming the ranks that hang.
  void wait(MPI_Request& request, bool moving = false);
  /// Returns when `done` says so.
  void wait_for(const std::function<bool()>& done, bool moving = false);
  /// The same for something that is no MPI operation (Communicator::wait_outside).
  void wait_outside(const std::function<std::optional<double>()>& waiting);
  /// Between two pieces of work: answers as busy, and calls the roll for others. Cheap when called often.
  void attend();

  /// For others, so far; time in which bytes move is not counted.
  double waited_seconds() const { return waited_before_; }

 private:
  /// Where a rank is; also the message between ranks.
  struct Position {
    std::int64_t call = 0;    ///< number of the roll call that is answered
    TeamId team = 0;          ///< waits there; kBusy: does not wait
    std::int64_t wait = 0;    ///< number of this rank's wait
    std::int64_t number = 0;  ///< of the team's collectives; 0: a message
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
  struct Team {
    std::vector<int> ranks;
    std::int64_t begun = 0;  ///< collectives
    // Of the last roll call in which all were found waiting in the team:
    std::vector<std::int64_t> waits;  ///< of each rank, the number of its wait
    Stopwatch since;
  };
  /// A rank that waits too long.
  struct Late {
    int rank = 0;
    Position position;
  };
  /// A question that is not settled yet.
  struct RollCall {
    std::int64_t call = 0;
    Late late;
    std::vector<int> ranks;
    std::vector<std::optional<Position>> answers;
    Stopwatch asked;
  };

  /// Waits until `look` returns true; it keeps waited_ up to date.
  template <typename Look>
  void wait_until(double busy_seconds, Look&& look);
  void start_over();  ///< nobody was told or asked about this wait yet
  Position here() const;
  void send(const Position& message, int to, int tag);
  void look_around();  ///< answers, reports, calls the roll: whatever is due now
  void hear_all();
  void hear(const Position& message, int sender, int tag);
  void answer(const Position& call, int sender);
  void go_on(const Position& told);
  void report_late();
  int asks_for(TeamId team) const;  ///< the rank that calls the roll for waits of this team
  double answer_time() const { return busy_ranks_ ? timing_.timeout : timing_.roll_call; }

  // roll_call.cpp
  void start_roll_calls();
  bool is_covered(const Late& late) const;
  void start_roll_call(const Late& late);
  void note_answer(const Position& answer, int sender);
  void settle_roll_calls();
  bool is_settled(RollCall& roll);
  void judge(const RollCall& roll);
  void judge_waiting(const RollCall& roll);
  void let_go_on(const RollCall& roll);
  [[noreturn]] void throw_missing(const std::vector<int>& missing, const Position& late) const;
  std::string name_of(int rank) const;
  static std::string operation_text(const Position& position);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  Timing timing_;
  bool busy_ranks_ = false;
  std::vector<Process> processes_;
  std::map<TeamId, Team> teams_;
  TeamId next_id_;
  std::list<Sent> sent_;  ///< messages on their way; a rank that hangs never takes its own

  Position position_;
  Stopwatch entered_;
  bool waiting_ = false;
  double waited_ = 0;         ///< seconds for others in this operation, as of the last look
  double waited_before_ = 0;  ///< in all that were waited for
  double next_report_ = 0;    ///< seconds of waiting
  bool reported_ = false;     ///< as late, and not told yet to go on
  double reported_at_ = 0;
  bool called_ = false;  ///< by the rank that was or would be told, since this rank entered

  std::vector<Late> late_;          ///< ranks that reported and were not looked after
  std::list<RollCall> roll_calls_;  ///< by this rank
  std::int64_t calls_ = 0;
  Stopwatch since_attended_;
};

}  // namespace gptq
