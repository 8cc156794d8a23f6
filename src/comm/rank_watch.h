#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace gptq {

/// Waits for nonblocking operations of one process, on all of its communicators, and finds out which ranks
/// hang when one takes too long.
///
/// Ranks answer roll calls on a communicator of their own: where they wait, or that they are busy. Who has
/// waited for `timeout` in a collective reports to the first rank of that team, again and again until it is
/// told to go on; that one calls the roll of the team, and whoever does not answer hangs, was stopped, or is
/// busy and does not attend. Who waits for a message calls the roll of its sender or receiver alone. Before
/// anybody is named, the rank that reported must say once more that it waits still: a report may be stale. A
/// rank that is busy but attends is waited for, and asked again. If the rank that was told is silent itself,
/// those that reported end the job after `grace`.
///
/// Ranks that wait for each other for ever are found: in one team when all have waited there for `timeout`
/// and none has moved between two roll calls; over several teams or messages when that is so of all ranks,
/// twice, a `timeout` apart.
///
/// Deadlines count the time in which this process ran: of one that was stopped, or did not get a core, the
/// time in between counts little, since nobody else may be to blame for it.
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
  /// Names what the next calls of `wait` belong to: a collective that begins now, one that was begun (its
  /// team must still be there) or goes on with another piece, or a message from or to `peer`.
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
  /// Done again and again while this rank waits, whatever for; must not wait itself. Empty: nothing.
  void set_idle_work(std::function<void()> work) { idle_work_ = std::move(work); }

  /// For others, so far. Time in which the bytes of a large collective move is not counted; of a message, it
  /// is.
  double waited_seconds() const { return waited_before_; }
  /// Once a rank has waited for `timeout`, those that hang are named within so many seconds.
  double seconds_to_name() const { return longest_roll_call() + timing_.grace; }

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
    // Of the last roll call in which all were found waiting in the team, for long:
    std::vector<std::int64_t> waits;  ///< of each rank, the number of its wait
    double since = 0;                 ///< by clock_
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
    double asked = 0;         ///< by clock_
    bool confirming = false;  ///< somebody is missing: the late rank was asked once more
    bool everyone = false;    ///< of all ranks, whether they wait for each other
  };

  /// Waits until `look` returns true; it keeps waited_ up to date.
  template <typename Look>
  void wait_until(double busy_seconds, Look&& look);
  void start_over();               ///< nobody was told or asked about this wait yet
  double fair(double step) const;  ///< so much of the seconds between two looks counts as waited
  Position here() const;
  void send(const Position& message, int to, int tag);
  void look_around();  ///< answers, reports, calls the roll: whatever is due now
  void hear_all();
  void hear(const Position& message, int sender, int tag);
  void answer(const Position& call, int sender);
  void hear_late(const Position& late, int sender);
  void go_on(const Position& told);
  void look_elsewhere(const Position& told, int sender);
  void report_late();
  void report_to(int told);
  int asks_for(TeamId team) const;  ///< the rank that calls the roll for waits of this team
  double answer_time() const { return busy_ranks_ ? timing_.timeout : timing_.roll_call; }
  /// Busy ranks hear of a report, and look for answers, only when they attend.
  double longest_roll_call() const { return busy_ranks_ ? 3 * timing_.timeout : 2 * timing_.roll_call; }

  // roll_call.cpp
  void start_roll_calls();
  bool is_covered(const Late& late) const;
  void start_roll_call(const Late& late);
  void call(RollCall& roll, int rank);
  void note_answer(const Position& answer, int sender);
  void settle_roll_calls();
  bool is_settled(RollCall& roll);
  static std::size_t reporter(const RollCall& roll);  ///< its place in the roll
  static bool waits_still(const RollCall& roll);      ///< as far as the late rank said
  static std::vector<int> missing_ranks(const RollCall& roll);
  bool must_confirm(const RollCall& roll) const;
  void confirm(RollCall& roll);
  void judge(const RollCall& roll);
  void let_go_on(const RollCall& roll);
  [[noreturn]] void throw_missing(const std::vector<int>& missing, const Position& late) const;

  // standstill.cpp
  bool all_wait_for_long(const RollCall& roll) const;
  void judge_team(const RollCall& roll);
  void ask_everyone();
  void judge_everyone(const RollCall& roll);
  [[noreturn]] void throw_standstill(const RollCall& roll) const;
  std::string name_of(int rank) const;
  std::string names_of(const std::vector<int>& ranks) const;
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
  bool waiting_ = false;
  double waited_ = 0;         ///< seconds for others in this operation; see the class on deadlines
  double waited_before_ = 0;  ///< in all that were waited for
  double next_report_ = 0;    ///< by waited_, like the next three
  bool reported_ = false;     ///< as late, and not told yet to go on
  double next_reminder_ = 0;
  double heard_at_ = 0;  ///< the report, or what came later from the rank that was told
  bool called_ = false;  ///< by the rank that was or would be told, since this rank entered
  bool left_ = false;    ///< that rank is through with what this one waits for
  std::function<void()> idle_work_;

  std::vector<Late> late_;          ///< ranks that reported and were not looked after
  std::list<RollCall> roll_calls_;  ///< by this rank
  std::int64_t calls_ = 0;
  double clock_ = 0;  ///< seconds in which this rank looked around
  Stopwatch since_attended_;
  std::vector<std::int64_t> standstill_;     ///< the waits of all ranks, if all had waited for long
  std::optional<double> everyone_asked_at_;  ///< by clock_
};

}  // namespace gptq
