#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gptq {

/// Number of an operation in the order of Simulator::add().
using OperationId = std::int32_t;

/// Something that takes time.
struct Operation {
  int queue = -1;     ///< of Simulator::queue(); -1: none, only `after` holds it back
  int resource = -1;  ///< of Simulator::resource(); -1: nothing is shared, it goes on at `most`
  double amount = 0;  ///< in the resource's unit (bytes, core seconds, ...); without a resource: in `most`'s
  double most = std::numeric_limits<double>::infinity();  ///< its rate never passes this; units a second
  double weight = 1;  ///< of its share in the resource: of so many equal operations folded into one
  double delay = 0;   ///< seconds before the first unit (a latency); the resource is not used meanwhile
  int phase = 0;      ///< of Simulator::phase()
};

/// What came of it. Phases and queues are in the order in which they were made.
struct Outcome {
  struct Queue {
    std::string name;
    double end = 0;               ///< of its last operation
    double busy = 0;              ///< seconds in which an operation of it ran
    double waiting = 0;           ///< seconds in which its first operation waited for those before it
    std::vector<double> seconds;  ///< by phase, waiting for its operations included: as a clock sees it
    std::vector<double> running;  ///< by phase, without waiting
  };

  double end = 0;
  std::vector<std::string> phases;
  std::vector<Queue> queues;
  std::vector<double> critical;  ///< seconds by phase of the chain of operations that decides `end`

  /// Of a queue; 0 for a phase that is not there.
  double seconds(int queue, const std::string& phase) const;
  /// The phase with most of the critical chain; empty if nothing took time.
  std::string limited_by() const;
};

/// A discrete-event simulation that knows nothing of models. An operation starts when it is the first in its
/// queue that is not done (a queue works off its operations one at a time, in the order of insertion) and all
/// operations that it waits for are done. Then it gets its fair share of a resource: all that use it at a
/// time share its rate by their weights, but none gets more than its `most`, and what one leaves goes to the
/// others (max-min fairness). Deterministic.
class Simulator {
 public:
  int queue(std::string name);
  /// rates: units a second of all users together when 1, 2, ... operations use it; the last one holds for
  /// more of them.
  int resource(std::string name, std::vector<double> rates);
  int phase(const std::string& name);  ///< the same number for the same name

  /// after: earlier operations.
  OperationId add(const Operation& operation, std::span<const OperationId> after = {});
  OperationId add(const Operation& operation, std::initializer_list<OperationId> after) {
    return add(operation, std::span(after.begin(), after.size()));
  }
  std::int64_t operations() const { return static_cast<std::int64_t>(operations_.size()); }

  /// Once only.
  Outcome run();
  /// Seconds from the beginning; after run().
  double start_of(OperationId id) const { return state_[static_cast<std::size_t>(id)].start; }
  double end_of(OperationId id) const { return state_[static_cast<std::size_t>(id)].end; }

 private:
  struct Resource {
    std::string name;
    std::vector<double> rates;
    std::vector<OperationId> users;
    double since = 0;          ///< when the users' remaining amounts were last brought up to date
    std::int64_t version = 0;  ///< events of an older one are void
    OperationId next = -1;     ///< the user that ends first
    bool changed = false;      ///< its users have, since their rates were found
  };
  struct State {
    double start = 0, end = 0, remaining = 0, rate = 0;
    OperationId before = -1;  ///< in its queue
    OperationId after = -1;   ///< in its queue
    OperationId cause = -1;   ///< that it waited for last
    std::int32_t waits_for = 0;
  };
  struct Event {
    double time;
    OperationId operation;  ///< that flows (delay is over) or ends; -1: of a resource
    int resource;
    std::int64_t version;
    bool operator>(const Event& other) const;
  };

  void link();
  void begin(OperationId id, double now);
  void flow(OperationId id, double now);
  void finish(OperationId id, double now);
  void bring_up_to_date(Resource& resource, double now);
  void end_users(int index, double now);
  void share(int index, double now);
  void push(const Event& event);
  Outcome outcome() const;

  std::vector<Operation> operations_;
  std::vector<State> state_;
  std::vector<std::pair<OperationId, OperationId>> edges_;  ///< (earlier, later)
  std::vector<std::int64_t> first_edge_;                    ///< of each operation in successors_
  std::vector<OperationId> successors_;
  std::vector<std::string> queues_, phases_;
  std::vector<OperationId> last_in_queue_;
  std::vector<Resource> resources_;
  std::vector<int> changed_;   ///< resources
  std::vector<Event> events_;  ///< a heap
};

}  // namespace gptq
