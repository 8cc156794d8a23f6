#include "pipeline/simulator.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <tuple>

#include "base/error.h"

namespace gptq {
namespace {

/// What rounding leaves of an amount when it is through.
constexpr double kRest = 1e-9;

}  // namespace

double Outcome::seconds(int queue, const std::string& phase) const {
  const auto found = std::find(phases.begin(), phases.end(), phase);
  if (found == phases.end()) return 0;
  return queues.at(static_cast<std::size_t>(queue)).seconds[static_cast<std::size_t>(found - phases.begin())];
}

std::string Outcome::limited_by() const {
  const auto most = std::max_element(critical.begin(), critical.end());
  return most == critical.end() || *most <= 0 ? ""
                                              : phases[static_cast<std::size_t>(most - critical.begin())];
}

/// The earliest first; of equals, ends of single operations before those of resources, then by number.
bool Simulator::Event::operator>(const Event& other) const {
  return std::make_tuple(time, resource, operation, version) >
         std::make_tuple(other.time, other.resource, other.operation, other.version);
}

int Simulator::queue(std::string name) {
  queues_.push_back(std::move(name));
  last_in_queue_.push_back(-1);
  return static_cast<int>(queues_.size()) - 1;
}

int Simulator::resource(std::string name, std::vector<double> rates) {
  GPTQ_EXPECT(!rates.empty() &&
              std::all_of(rates.begin(), rates.end(), [](double rate) { return rate > 0; }));
  Resource added;
  added.name = std::move(name);
  added.rates = std::move(rates);
  resources_.push_back(std::move(added));
  return static_cast<int>(resources_.size()) - 1;
}

int Simulator::phase(const std::string& name) {
  const auto found = std::find(phases_.begin(), phases_.end(), name);
  if (found != phases_.end()) return static_cast<int>(found - phases_.begin());
  phases_.push_back(name);
  return static_cast<int>(phases_.size()) - 1;
}

OperationId Simulator::add(const Operation& operation, std::span<const OperationId> after) {
  const auto id = static_cast<OperationId>(operations_.size());
  // Without an end there would be none of the whole.
  GPTQ_EXPECT(operation.amount >= 0 && operation.delay >= 0 && operation.weight > 0 && operation.most > 0);
  GPTQ_EXPECT(operation.resource >= 0 || operation.amount == 0 ||
              operation.most < std::numeric_limits<double>::infinity());
  State state;
  state.remaining = operation.amount;
  state.waits_for = static_cast<std::int32_t>(after.size());
  for (const OperationId earlier : after) {
    GPTQ_EXPECT(earlier >= 0 && earlier < id);
    edges_.emplace_back(earlier, id);
  }
  if (operation.queue >= 0) {
    OperationId& last = last_in_queue_.at(static_cast<std::size_t>(operation.queue));
    state.before = last;
    if (last >= 0) {
      state_[static_cast<std::size_t>(last)].after = id;
      ++state.waits_for;
    }
    last = id;
  }
  operations_.push_back(operation);
  state_.push_back(state);
  return id;
}

/// Sorts the edges by their earlier end.
void Simulator::link() {
  first_edge_.assign(operations_.size() + 1, 0);
  for (const auto& [earlier, later] : edges_) ++first_edge_[static_cast<std::size_t>(earlier) + 1];
  for (std::size_t i = 1; i < first_edge_.size(); ++i) first_edge_[i] += first_edge_[i - 1];
  successors_.resize(edges_.size());
  std::vector<std::int64_t> next(first_edge_.begin(), first_edge_.end() - 1);
  for (const auto& [earlier, later] : edges_)
    successors_[static_cast<std::size_t>(next[static_cast<std::size_t>(earlier)]++)] = later;
  edges_ = {};
}

void Simulator::push(const Event& event) {
  events_.push_back(event);
  std::push_heap(events_.begin(), events_.end(), std::greater<>());
}

void Simulator::begin(OperationId id, double now) {
  state_[static_cast<std::size_t>(id)].start = now;
  const double delay = operations_[static_cast<std::size_t>(id)].delay;
  if (delay > 0) {
    state_[static_cast<std::size_t>(id)].rate = -1;  // the event is the delay's end
    push({now + delay, id, -1, 0});
  } else {
    flow(id, now);
  }
}

void Simulator::flow(OperationId id, double now) {
  const Operation& operation = operations_[static_cast<std::size_t>(id)];
  State& state = state_[static_cast<std::size_t>(id)];
  state.rate = 0;
  if (operation.resource < 0 || operation.amount == 0) {
    push({operation.amount == 0 ? now : now + operation.amount / operation.most, id, -1, 0});
    return;
  }
  Resource& resource = resources_.at(static_cast<std::size_t>(operation.resource));
  bring_up_to_date(resource, now);
  resource.users.push_back(id);
  if (!resource.changed) changed_.push_back(operation.resource);
  resource.changed = true;
}

void Simulator::bring_up_to_date(Resource& resource, double now) {
  const double passed = now - resource.since;
  resource.since = now;
  if (passed <= 0) return;
  for (const OperationId id : resource.users) {
    State& state = state_[static_cast<std::size_t>(id)];
    state.remaining -= state.rate * passed;
  }
}

/// Those whose amount is through leave the resource.
void Simulator::end_users(int index, double now) {
  Resource& resource = resources_[static_cast<std::size_t>(index)];
  bring_up_to_date(resource, now);
  const auto is_through = [&](OperationId id) {
    return id == resource.next || state_[static_cast<std::size_t>(id)].remaining <=
                                      kRest * operations_[static_cast<std::size_t>(id)].amount;
  };
  std::vector<OperationId> ended;
  std::copy_if(resource.users.begin(), resource.users.end(), std::back_inserter(ended), is_through);
  std::erase_if(resource.users, is_through);
  std::sort(ended.begin(), ended.end());
  if (!resource.changed) changed_.push_back(index);
  resource.changed = true;
  for (const OperationId id : ended) finish(id, now);
}

/// Finds the users' rates anew, and when the first of them ends.
void Simulator::share(int index, double now) {
  Resource& resource = resources_[static_cast<std::size_t>(index)];
  resource.changed = false;
  ++resource.version;
  if (resource.users.empty()) return;
  const auto operation = [&](OperationId id) -> const Operation& {
    return operations_[static_cast<std::size_t>(id)];
  };
  // Who wants least for its weight is served first: what it leaves goes to the others.
  std::sort(resource.users.begin(), resource.users.end(), [&](OperationId a, OperationId b) {
    return std::make_pair(operation(a).most / operation(a).weight, a) <
           std::make_pair(operation(b).most / operation(b).weight, b);
  });
  double left = resource.rates[std::min(resource.users.size(), resource.rates.size()) - 1];
  double weights = 0;
  for (const OperationId id : resource.users) weights += operation(id).weight;
  double first_end = std::numeric_limits<double>::infinity();
  for (const OperationId id : resource.users) {
    State& state = state_[static_cast<std::size_t>(id)];
    state.rate = std::min(operation(id).most, left * operation(id).weight / weights);
    left -= state.rate;
    weights -= operation(id).weight;
    const double end = now + std::max(0.0, state.remaining) / state.rate;
    if (end < first_end) {
      first_end = end;
      resource.next = id;
    }
  }
  push({first_end, -1, index, resource.version});
}

void Simulator::finish(OperationId id, double now) {
  state_[static_cast<std::size_t>(id)].end = now;
  const auto release = [&](OperationId later) {
    State& state = state_[static_cast<std::size_t>(later)];
    state.cause = id;
    if (--state.waits_for == 0) begin(later, now);
  };
  const auto at = static_cast<std::size_t>(id);
  for (std::int64_t i = first_edge_[at]; i < first_edge_[at + 1]; ++i)
    release(successors_[static_cast<std::size_t>(i)]);
  if (const OperationId next = state_[at].after; next >= 0) release(next);
}

Outcome Simulator::run() {
  GPTQ_EXPECT(first_edge_.empty());
  link();
  // Whatever waits for nothing; the others are begun by those that they wait for.
  std::vector<OperationId> first;
  for (std::size_t i = 0; i < operations_.size(); ++i) {
    if (state_[i].waits_for == 0) first.push_back(static_cast<OperationId>(i));
  }
  for (const OperationId id : first) begin(id, 0);
  double now = 0;
  while (true) {
    if (!changed_.empty() && (events_.empty() || events_.front().time > now)) {
      for (const int index : changed_) share(index, now);
      changed_.clear();
    }
    if (events_.empty()) break;
    std::pop_heap(events_.begin(), events_.end(), std::greater<>());
    const Event event = events_.back();
    events_.pop_back();
    if (event.operation < 0 && event.version != resources_[static_cast<std::size_t>(event.resource)].version)
      continue;
    now = event.time;
    if (event.operation < 0) {
      end_users(event.resource, now);
    } else if (state_[static_cast<std::size_t>(event.operation)].rate < 0) {
      flow(event.operation, now);
    } else {
      finish(event.operation, now);
    }
  }
  return outcome();
}

Outcome Simulator::outcome() const {
  Outcome result;
  result.phases = phases_;
  result.critical.assign(phases_.size(), 0);
  for (const std::string& name : queues_) {
    Outcome::Queue& queue = result.queues.emplace_back();
    queue.name = name;
    queue.seconds.assign(phases_.size(), 0);
    queue.running.assign(phases_.size(), 0);
  }
  OperationId last = -1;
  for (std::size_t i = 0; i < operations_.size(); ++i) {
    const State& state = state_[i];
    if (last < 0 || state.end > result.end) last = static_cast<OperationId>(i);
    result.end = std::max(result.end, state.end);
    if (operations_[i].queue < 0) continue;
    Outcome::Queue& queue = result.queues[static_cast<std::size_t>(operations_[i].queue)];
    const double before = state.before < 0 ? 0 : state_[static_cast<std::size_t>(state.before)].end;
    const auto phase = static_cast<std::size_t>(operations_[i].phase);
    queue.end = std::max(queue.end, state.end);
    queue.busy += state.end - state.start;
    queue.waiting += state.start - before;
    queue.seconds[phase] += state.end - before;
    queue.running[phase] += state.end - state.start;
  }
  for (OperationId id = last; id >= 0; id = state_[static_cast<std::size_t>(id)].cause) {
    const State& state = state_[static_cast<std::size_t>(id)];
    result.critical[static_cast<std::size_t>(operations_[static_cast<std::size_t>(id)].phase)] +=
        state.end - state.start;
  }
  return result;
}

}  // namespace gptq
