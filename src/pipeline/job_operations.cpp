#include "pipeline/job_operations.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "pipeline/job_context.h"

namespace gptq {
namespace {

/// Parts in which hidden states are simulated on their way to the next stage: chunks are so many that more
/// would change nothing.
constexpr int kPieces = 4;

Operation lasting(double seconds) {
  Operation operation;
  operation.amount = seconds;
  operation.most = 1;
  return operation;
}

std::vector<Chunk> chunks_of(const PlanRequest& request, const Plan& plan) {
  const auto samples = static_cast<std::int64_t>(request.sample_lengths.size());
  return make_chunks(request.sample_lengths, plan.chunk_tokens,
                     held_out_samples(samples, request.job.calibration.held_out));
}

}  // namespace

JobOperations::JobOperations(const PlanRequest& request, const Plan& plan, const Machine& machine,
                             const GridChoice& choice)
    : request_(request),
      machine_(machine),
      choice_(choice),
      place_(plan.activation_place),
      costs_(machine),
      chunks_(chunks_of(request, plan)),
      everyone_(share_of(chunks_, request.sample_lengths, 0, 1)),
      lanes_(request, chunks_, machine, choice, simulator_),
      files_(simulator_.resource("files", {machine.files.all})),
      writes_(simulator_.resource("files written", {machine.files.write_all})) {
  GPTQ_EXPECT(choice.grid.ranks() == request.ranks);
}

RankPlaces JobOperations::places(const LaneTeam& team) const {
  int ranks = 0;
  for (const Lane* lane : team) ranks += lane->count;
  return {ranks, std::min(ranks, choice_.ranks_on_node)};
}

OperationId JobOperations::put(Lane& lane, const char* phase, Operation operation,
                               const std::vector<OperationId>& after) {
  operation.queue = lane.queue;
  operation.phase = simulator_.phase(phase);
  lane.last = simulator_.add(operation, after);
  if (&lane == &lanes_.all().front()) order_.emplace_back(phase);
  return lane.last;
}

/// Seconds on a core or device, which others may share.
Operation JobOperations::computing(const Lane& lane, double seconds) const {
  Operation operation;
  operation.resource = lane.cores;
  operation.amount = seconds;
  operation.most = lane.most;
  return operation;
}

OperationId JobOperations::compute(Lane& lane, const char* phase, const WorkList& work,
                                   const std::vector<OperationId>& after) {
  return put(lane, phase, computing(lane, costs_.seconds(work)), after);
}

/// Bytes a second of a rank's rows on their way; infinite where they lie where the kernels run.
double JobOperations::row_rate() const {
  constexpr double nothing_moves = std::numeric_limits<double>::infinity();
  if (place_ == Place::disk)
    return std::min(machine_.files.node, machine_.files.write_node) / choice_.ranks_on_node;
  if (place_ == Place::host && !machine_.is_cpu() && machine_.device.copy > 0) return machine_.device.copy;
  return nothing_moves;
}

OperationId JobOperations::compute_rows(Lane& lane, const char* phase, const WorkList& work, double bytes,
                                        const std::vector<OperationId>& after) {
  const double copies = bytes / row_rate() * lane.most;
  return put(lane, phase, computing(lane, std::max(costs_.seconds(work), copies)), after);
}

OperationId JobOperations::wait(Lane& lane, const char* phase, const std::vector<OperationId>& after) {
  return put(lane, phase, lasting(0), after);
}

void JobOperations::spend(Lane& lane, const char* phase, double seconds) {
  put(lane, phase, lasting(seconds), {});
}

// ---- messages

void JobOperations::meet(const LaneTeam& team, const char* phase, double seconds) {
  std::vector<OperationId> before;
  for (const Lane* lane : team)
    if (lane->last >= 0) before.push_back(lane->last);
  Operation nothing;
  nothing.phase = simulator_.phase(phase);
  const OperationId all = simulator_.add(nothing, before);
  for (Lane* lane : team) put(*lane, phase, lasting(seconds), {all});
}

void JobOperations::count_ring(double bytes_a_rank, const RankPlaces& places) {
  links_ += Costs::ring(bytes_a_rank, places);
}

void JobOperations::exchange(const LaneTeam& team, const char* phase, double bytes_a_rank, double rounds) {
  const RankPlaces all = places(team);
  meet(team, phase, costs_.all_to_all(bytes_a_rank, rounds, all));
  links_ += Costs::to_all(bytes_a_rank, all);
}

int JobOperations::pieces() const {
  return choice_.grid.stages > 1 ? kPieces : 1;
}

std::vector<std::vector<OperationId>> JobOperations::flow(int stage, const char* phase,
                                                          const PipeStream& stream, const PieceWork& work) {
  std::vector<std::vector<OperationId>> done;
  for (int i = 0; i < lanes_.in_stage(); ++i) {
    Lane& lane = lanes_.at(stage, i);
    auto [list, bytes] = work(lane);
    for (WorkItem& item : list) item.calls /= pieces();
    std::vector<OperationId>& ends = done.emplace_back();
    for (int piece = 0; piece < pieces(); ++piece) {
      std::vector<OperationId> after;
      if (!stream.arrived.empty())
        after.push_back(stream.arrived[static_cast<std::size_t>(i)][static_cast<std::size_t>(piece)]);
      ends.push_back(compute_rows(lane, phase, list, bytes / pieces(), after));
    }
  }
  return done;
}

void JobOperations::hand_off(int stage, const std::vector<std::vector<OperationId>>& done,
                             PipeStream& stream) {
  stream.arrived.clear();
  const GridShape& grid = choice_.grid;
  if (grid.stages == 1) return;
  const int next = (stage + 1) % grid.stages;
  for (int i = 0; i < lanes_.in_stage(); ++i) {
    Lane& lane = lanes_.at(stage, i);
    const bool same_node = rank_at(grid, {stage, lane.replica}) / choice_.ranks_on_node ==
                           rank_at(grid, {next, lane.replica}) / choice_.ranks_on_node;
    const LinkRates& link = costs_.link(same_node);
    const double bytes =
        4.0 * static_cast<double>(request_.model.config().hidden_size * lane.share.all.tokens);
    (same_node ? links_.node : links_.fabric) += bytes * lane.count;
    std::vector<OperationId>& arrived = stream.arrived.emplace_back();
    for (const OperationId end : done[static_cast<std::size_t>(i)]) {
      Operation message = lasting(0);
      message.queue = lane.network;
      message.phase = simulator_.phase("handoff");
      message.delay = link.latency;
      message.amount = bytes / pieces();
      message.most = std::min(link.bandwidth, link.shared / choice_.ranks_on_node);
      arrived.push_back(simulator_.add(message, {end}));
    }
  }
}

// ---- files

OperationId JobOperations::read(Lane& lane, const BlockWork& work, bool prepares) {
  const RankPlaces of_stage{choice_.grid.replicas, choice_.ranks_on_node};
  const double share = static_cast<double>(of_stage.nodes()) / of_stage.ranks;  // the node reads it once
  Operation reading;
  reading.queue = lane.reader;
  reading.resource = files_;
  reading.phase = simulator_.phase("reading files");
  reading.delay = machine_.files.open;
  reading.amount = (share * work.shared_bytes() + work.own_bytes()) * lane.count;
  reading.most = machine_.files.node / choice_.ranks_on_node * lane.count;
  reading.weight = lane.count;
  read_bytes_ += reading.amount;
  std::vector<OperationId> after;
  if (lane.taken >= 0) after.push_back(lane.taken);
  simulator_.add(reading, after);
  Operation copying = lasting((1 - share) * work.shared_bytes() / machine_.files.cached);
  copying.queue = lane.reader;
  copying.phase = simulator_.phase("reading the node's cache");
  simulator_.add(copying);
  WorkList decoding = work.decode();
  if (prepares && !machine_.is_cpu()) {
    const WorkList preparing = work.prepare();
    decoding.insert(decoding.end(), preparing.begin(), preparing.end());
  }
  Operation decode = computing(lane, costs_.seconds(decoding));
  decode.most = std::min(decode.most, 1.0);  // one thread
  decode.queue = lane.reader;
  decode.phase = simulator_.phase("decoding weights");
  return simulator_.add(decode);
}

void JobOperations::load(const LaneTeam& team, const BlockWork& work, bool prepares) {
  for (Lane* lane : team) {
    const OperationId there = read(*lane, work, prepares);
    lane->taken = wait(*lane, "load", {there});  // the next block's reading begins
    if (prepares && machine_.is_cpu()) compute(*lane, "load", work.prepare());
  }
}

void JobOperations::start_reading() {
  for (Lane& lane : lanes_.all()) lane.taken = lane.last;
}

void JobOperations::write_from(Lane& lane, const WorkList& pack, double bytes) {
  std::vector<OperationId> after;
  if (lane.written >= 0) after.push_back(lane.written);
  const OperationId given = wait(lane, "export", after);
  Operation packing = computing(lane, costs_.seconds(pack));
  packing.most = std::min(packing.most, 1.0);  // one thread
  packing.queue = lane.writer;
  packing.phase = simulator_.phase("packing");
  simulator_.add(packing, {given});
  Operation writing;
  writing.queue = lane.writer;
  writing.phase = simulator_.phase("writing files");
  writing.resource = writes_;
  writing.amount = bytes * lane.count;
  writing.most = lane.count * machine_.files.write_node / (lane.count > 1 ? choice_.ranks_on_node : 1);
  writing.weight = lane.count;
  lane.written = simulator_.add(writing);
}

void JobOperations::write(int stage, const BlockWork& work) {
  for (Lane* lane : lanes_.stage(stage)) {
    const bool owner = work.own_written_bytes() > 0;
    if (!lane->is_root() && !owner) continue;
    WorkList pack = owner ? work.pack_experts() : WorkList();
    double bytes = work.own_written_bytes();
    if (lane->is_root()) {
      const WorkList dense = work.pack_dense();
      pack.insert(pack.end(), dense.begin(), dense.end());
      bytes += work.written_bytes();
    }
    write_from(*lane, pack, bytes);
  }
}

void JobOperations::checkpoint(const LaneTeam& team, double streams) {
  const double hidden = 4 * streams * static_cast<double>(request_.model.config().hidden_size);
  const bool copies = !machine_.is_cpu() && place_ == Place::device && machine_.device.copy > 0;
  for (Lane* lane : team) {
    const double bytes = hidden * static_cast<double>(lane->share.all.tokens);
    std::vector<OperationId> after;
    if (lane->saved >= 0) after.push_back(lane->saved);
    wait(*lane, "checkpoint", after);
    spend(*lane, "checkpoint", bytes / (copies ? machine_.device.copy : machine_.files.cached));
    Operation writing;
    writing.queue = lane->saver;
    writing.phase = simulator_.phase("writing checkpoints");
    writing.resource = writes_;
    writing.amount = bytes * lane->count;
    writing.most = lane->count * machine_.files.write_node / choice_.ranks_on_node;
    writing.weight = lane->count;
    lane->saved = simulator_.add(writing, {lane->last});
  }
}

void JobOperations::wait_for_files() {
  std::vector<OperationId> written;
  for (const Lane& lane : lanes_.all())
    if (lane.written >= 0) written.push_back(lane.written);
  wait(lanes_.all().front(), "export", written);
  const LaneTeam world = lanes_.world();
  meet(world, "export", costs_.barrier(places(world)));
}

SimulatedJob JobOperations::run() {
  const std::int64_t operations = simulator_.operations();
  const Outcome outcome = simulator_.run();
  SimulatedJob job;
  job.seconds = outcome.end;
  job.operations = operations;
  job.links = links_;
  job.read_bytes = read_bytes_;
  job.order = std::move(order_);
  for (std::size_t phase = 0; phase < outcome.phases.size(); ++phase) {
    const double root = outcome.seconds(lanes_.all().front().queue, outcome.phases[phase]);
    if (root > 0) job.root[outcome.phases[phase]] = root;
    if (outcome.critical[phase] > 0) job.critical[outcome.phases[phase]] = outcome.critical[phase];
  }
  job.least_idle = 1;
  for (const Lane& lane : lanes_.all()) {
    const Outcome::Queue& queue = outcome.queues[static_cast<std::size_t>(lane.queue)];
    const double idle = queue.end > 0 ? queue.waiting / queue.end : 0;
    job.least_idle = std::min(job.least_idle, idle);
    job.most_idle = std::max(job.most_idle, idle);
  }
  return job;
}

}  // namespace gptq
