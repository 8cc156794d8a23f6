#include "pipeline/simulate_job.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "pipeline/job_context.h"
#include "pipeline/job_lanes.h"

namespace gptq {
namespace {

/// Parts in which hidden states are simulated on their way to the next stage: chunks are so many that more
/// would change nothing.
constexpr int kPieces = 4;
/// Of StageSummer.
constexpr std::int64_t kMostRounds = 8;
/// Of measure_rates(), which a job begins with.
constexpr double kMeasureSeconds = 0.25;

using Team = std::vector<Lane*>;

class JobExpander {
 public:
  JobExpander(const PlanRequest& request, const Plan& plan, const Machine& machine, const GridChoice& choice)
      : request_(request),
        machine_(machine),
        choice_(choice),
        costs_(machine),
        recipe_(request.job.quantization),
        lanes_(request,
               make_chunks(request.sample_lengths, plan.chunk_tokens,
                           held_out_samples(static_cast<std::int64_t>(request.sample_lengths.size()),
                                            request.job.calibration.held_out)),
               machine, choice, simulator_),
        files_(simulator_.resource("files", {machine.files.all})),
        writes_(simulator_.resource("files written", {machine.files.write_all})),
        reference_(plan.reference),
        calibrates_(request.job.quantization.method == "gptq" && !request.sample_lengths.empty()) {
    GPTQ_EXPECT(choice.grid.ranks() == request.ranks);
  }

  SimulatedJob run() {
    start();
    ScheduleShape schedule;
    schedule.grid = choice_.grid;
    schedule.blocks = request_.model.config().num_hidden_layers;
    schedule.starts = {0};
    schedule.full_precision = choice_.full_precision;
    schedule.has_reference = keeps_inputs();
    schedule.helpers = helps();
    std::vector<std::vector<Visit>> visits;
    for (int stage = 0; stage < choice_.grid.stages; ++stage)
      visits.push_back(visits_of_stage(schedule, stage));
    // Every stage's visits ascend by block, so block by block is an order in which all can be added.
    std::vector<std::size_t> next(visits.size());
    for (std::int64_t block = 0; block < schedule.blocks; ++block) {
      const BlockWork work(request_.model, request_.job, recipe_, block, request_.compute);
      for (std::size_t stage = 0; stage < visits.size(); ++stage) {
        for (; next[stage] < visits[stage].size() && visits[stage][next[stage]].block == block; ++next[stage])
          visit(visits[stage][next[stage]], static_cast<int>(stage), work);
      }
    }
    finish(static_cast<int>((schedule.blocks - 1) % choice_.grid.stages));
    return result();
  }

 private:
  /// A reference pass keeps the inputs of all steps where it cannot go beside.
  bool keeps_inputs() const { return reference_ == ReferenceStream::all && choice_.grid.stages > 1; }
  bool helps() const { return choice_.helpers && choice_.grid.stages > 1 && !choice_.full_precision; }

  // ---- operations

  OperationId put(Lane& lane, const char* phase, Operation operation,
                  const std::vector<OperationId>& after = {}) {
    operation.queue = lane.queue;
    operation.phase = simulator_.phase(phase);
    lane.last = simulator_.add(operation, after);
    if (&lane == &lanes_.all().front()) order_.emplace_back(phase);
    return lane.last;
  }

  /// Seconds on a core or device, which others may share.
  Operation computing(const Lane& lane, double seconds) const {
    Operation operation;
    operation.resource = lane.cores;
    operation.amount = seconds;
    operation.most = lane.most;
    return operation;
  }

  static Operation lasting(double seconds) {
    Operation operation;
    operation.amount = seconds;
    operation.most = 1;
    return operation;
  }

  OperationId compute(Lane& lane, const char* phase, const WorkList& work,
                      const std::vector<OperationId>& after = {}) {
    return put(lane, phase, computing(lane, costs_.seconds(work)), after);
  }

  /// All of them come together; then each is busy for so long.
  void meet(const Team& team, const char* phase, double seconds) {
    std::vector<OperationId> before;
    for (const Lane* lane : team)
      if (lane->last >= 0) before.push_back(lane->last);
    Operation nothing;
    nothing.phase = simulator_.phase(phase);
    const OperationId all = simulator_.add(nothing, before);
    for (Lane* lane : team) put(*lane, phase, lasting(seconds), {all});
  }

  RankPlaces places(const Team& team) const {
    int ranks = 0;
    for (const Lane* lane : team) ranks += lane->count;
    return {ranks, std::min(ranks, choice_.ranks_on_node)};
  }

  // ---- files

  /// A block's way into the memory of a lane's ranks, beside their work.
  OperationId read(Lane& lane, const BlockWork& work) {
    const RankPlaces of_stage{choice_.grid.replicas, choice_.ranks_on_node};
    const double share = static_cast<double>(of_stage.nodes()) / of_stage.ranks;  // the node reads it once
    Operation reading;
    reading.queue = lane.reader;
    reading.resource = files_;
    reading.phase = simulator_.phase("load");
    reading.delay = machine_.files.open;
    reading.amount = share * work.read_bytes() * lane.count;
    reading.most = machine_.files.node / choice_.ranks_on_node * lane.count;
    reading.weight = lane.count;
    read_bytes_ += reading.amount;
    std::vector<OperationId> after;
    if (lane.taken >= 0) after.push_back(lane.taken);
    simulator_.add(reading, after);
    Operation copying = lasting((1 - share) * work.read_bytes() / machine_.files.cached);
    copying.queue = lane.reader;
    copying.phase = reading.phase;
    simulator_.add(copying);
    WorkList decoding = work.decode();
    if (!machine_.is_cpu() && calibrates_) {
      const WorkList preparing = work.prepare();
      decoding.insert(decoding.end(), preparing.begin(), preparing.end());
    }
    Operation decode = computing(lane, costs_.seconds(decoding));
    decode.most = std::min(decode.most, 1.0);  // one thread
    decode.queue = lane.reader;
    decode.phase = reading.phase;
    return simulator_.add(decode);
  }

  void load(const Team& team, const BlockWork& work) {
    for (Lane* lane : team) {
      const OperationId there = read(*lane, work);
      lane->taken =
          compute(*lane, "load", machine_.is_cpu() && calibrates_ ? work.prepare() : WorkList(), {there});
    }
  }

  void write(Lane& lane, const BlockWork& work) {
    std::vector<OperationId> after;
    if (lane.written >= 0) after.push_back(lane.written);
    const OperationId given = put(lane, "export", lasting(0), after);
    Operation pack = computing(lane, costs_.seconds(work.pack()));
    pack.most = std::min(pack.most, 1.0);  // one thread
    pack.queue = lane.writer;
    pack.phase = simulator_.phase("export");
    simulator_.add(pack, {given});
    Operation writing;
    writing.queue = lane.writer;
    writing.phase = pack.phase;
    writing.resource = writes_;
    writing.amount = work.written_bytes();
    writing.most = machine_.files.write_node;
    lane.written = simulator_.add(writing);
  }

  // ---- streams

  /// The way of one stream's hidden states: which piece of which lane is where.
  struct Stream {
    std::vector<std::vector<OperationId>> arrived;  ///< (lane of a stage, piece); empty: it is here
  };

  int pieces() const { return choice_.grid.stages > 1 ? kPieces : 1; }

  /// Work on all chunks, a piece after the other, each when it has arrived.
  std::vector<std::vector<OperationId>> flow(int stage, const char* phase, const Stream& stream,
                                             const std::function<WorkList(const Lane&)>& work) {
    std::vector<std::vector<OperationId>> done;
    for (int i = 0; i < lanes_.in_stage(); ++i) {
      Lane& lane = lanes_.at(stage, i);
      const double seconds = costs_.seconds(work(lane)) / pieces();
      std::vector<OperationId>& ends = done.emplace_back();
      for (int piece = 0; piece < pieces(); ++piece) {
        std::vector<OperationId> after;
        if (!stream.arrived.empty())
          after.push_back(stream.arrived[static_cast<std::size_t>(i)][static_cast<std::size_t>(piece)]);
        ends.push_back(put(lane, phase, computing(lane, seconds), after));
      }
    }
    return done;
  }

  /// Pieces leave for the next stage as they are done.
  void hand_off(int stage, const std::vector<std::vector<OperationId>>& done, Stream& stream) {
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

  // ---- visits

  void start() {
    const Team world = lanes_.world();
    for (Lane* lane : world) {
      put(*lane, "start", lasting(machine_.startup));
      put(*lane, "measure", lasting(kMeasureSeconds));
    }
    if (calibrates_) embed();
    for (Lane* lane : world) lane->taken = lane->last;  // reading begins
  }

  void embed() {
    const ModelConfig& config = request_.model.config();
    const auto hidden = static_cast<double>(config.hidden_size);
    const double table =
        hidden * static_cast<double>(config.vocab_size) * static_cast<double>(size_of(config.dtype));
    for (Lane* lane : lanes_.stage(0)) {
      const double streams = reference_ == ReferenceStream::all ? 2 : 1;
      const auto tokens = static_cast<double>(lane->share.all.tokens);
      compute(*lane, "embed", {{"decode", table, 1}, {"rows", streams * tokens * hidden * 6, 1}});
    }
  }

  void visit(const Visit& visit, int stage, const BlockWork& work) {
    switch (visit.kind) {
      case Visit::Kind::help:
        return;  // its operations come with those of the stage that holds the block
      case Visit::Kind::reference:
        load(lanes_.stage(stage), work);
        return reference_pass(stage, work);
      case Visit::Kind::quantize:
        if (!keeps_inputs() && !choice_.full_precision) load(lanes_.stage(stage), work);
        return quantize(stage, work);
    }
  }

  void reference_pass(int stage, const BlockWork& work) {
    const char* phase = choice_.full_precision ? "forward" : "reference";
    const auto done =
        flow(stage, phase, reference_stream_, [&](const Lane& lane) { return work.pass(lane.share.all); });
    hand_off(stage, done, reference_stream_);
  }

  void quantize(int stage, const BlockWork& work) {
    const Team team = lanes_.stage(stage);
    const bool forward = calibrates_ && !choice_.full_precision;
    const bool beside = forward && reference_ == ReferenceStream::all && !keeps_inputs();
    const bool sequential = request_.job.quantization.true_sequential;
    const auto reference = [&](std::int64_t group) {
      for (Lane* lane : team)
        if (beside) compute(*lane, "reference", work.advance(group, lane->share.all));
    };
    if (forward) {
      flow(stage, "forward", stream_, [&](const Lane& lane) { return work.enter(lane.share.all); });
      for (Lane* lane : team)
        if (beside) compute(*lane, "reference", work.enter(lane->share.all));
    }
    for (std::int64_t group = 0; group < work.groups(); ++group) {
      const bool reference_first = work.reference_first(group);
      if (reference_first) reference(group);
      if (work.quantizes(group)) quantize_group(stage, group, work);
      if (group == 0 && reference_ == ReferenceStream::held_out && forward) {
        for (Lane* lane : team) compute(*lane, "held out", work.pass(lane->share.held_out));
      }
      if (forward) {
        const auto done = flow(stage, "forward", {}, [&](const Lane& lane) {
          WorkList advancing = work.advance(group, lane.share.all);
          const WorkList replacing = work.replace(group);
          if (sequential) advancing.insert(advancing.end(), replacing.begin(), replacing.end());
          return advancing;
        });
        if (group + 1 == work.groups() && sequential) hand_off(stage, done, stream_);
      }
      if (!reference_first) reference(group);
      if (calibrates_)
        meet(safe_point_team(stage), "checkpoint", costs_.barrier(places(safe_point_team(stage))));
    }
    if (forward && !sequential) {  // once more, with the quantized weights
      const auto done = flow(stage, "forward", {}, [&](const Lane& lane) {
        WorkList again = work.pass(lane.share.all);
        const WorkList preparing = work.prepare();
        again.insert(again.end(), preparing.begin(), preparing.end());
        return again;
      });
      hand_off(stage, done, stream_);
    }
    write(lanes_.at(stage, 0), work);
  }

  /// Safe points of one recipe are passed by all ranks; in a stage that works alone, by it.
  Team safe_point_team(int stage) { return choice_.full_precision ? lanes_.stage(stage) : lanes_.world(); }

  void quantize_group(int stage, std::int64_t group, const BlockWork& work) {
    const Team team = lanes_.stage(stage);
    const Team solvers = helps() || !calibrates_ ? (calibrates_ ? lanes_.world() : team) : team;
    const RankPlaces replicas = places(team), all = places(solvers);
    if (calibrates_) {
      sum(team, replicas, group, work);
      factor(stage, solvers, group, work);
      meet(solvers, "reduce", costs_.broadcast(work.factor_bytes(group), all));
      links_ += Costs::ring((all.ranks - 1.0) / all.ranks * work.factor_bytes(group), all);
    }
    for (Lane* lane : solvers) {
      if (calibrates_) compute(*lane, "factor", work.expand(group));
      if (work.corrects(group)) compute(*lane, "correct", work.correct(group, all.ranks));
      compute(*lane, "solve", work.solve(group, all.ranks));
      if (request_.job.quantization.refine_sweeps > 0)
        compute(*lane, "refine", work.refine(group, all.ranks));
    }
    meet(solvers, "gather", costs_.all_gather(work.code_bytes(group), all));
    links_ += Costs::ring((all.ranks - 1.0) / all.ranks * work.code_bytes(group), all);
    for (Lane* lane : team) compute(*lane, "gather", work.gather(group, all.ranks));
    if (request_.job.calibration.held_out > 0 && calibrates_) {
      for (Lane* lane : team) compute(*lane, "held out", work.judge(group, lane->share.held_out));
      meet(team, "held out", costs_.barrier(replicas));
    }
  }

  void sum(const Team& team, const RankPlaces& replicas, std::int64_t group, const BlockWork& work) {
    double shortest = std::numeric_limits<double>::infinity();
    for (Lane* lane : team) {
      const double seconds = costs_.seconds(work.sums(group, lane->share.summed));
      const auto rounds =
          static_cast<double>(std::clamp<std::int64_t>(lane->share.summed.chunks, 1, kMostRounds));
      shortest = std::min(shortest, seconds / rounds / lane->most);
      put(*lane, "hessian", computing(*lane, seconds));
    }
    const double maxima = costs_.barrier(replicas);
    const double whole = costs_.all_reduce(work.sum_bytes(group), replicas);
    const double seen = machine_.is_cpu() ? whole : std::max(maxima, whole - shortest);
    meet(team, "reduce", maxima + seen);
    links_ += Costs::ring(2 * (replicas.ranks - 1.0) / replicas.ranks * work.sum_bytes(group), replicas);
  }

  /// The root works, the others wait.
  void factor(int stage, const Team& solvers, std::int64_t group, const BlockWork& work) {
    Lane& root = lanes_.at(stage, 0);
    const OperationId made = compute(root, "factor", work.factor(group));
    for (Lane* lane : solvers)
      if (lane != &root) put(*lane, "factor", lasting(0), {made});
  }

  void finish(int last_stage) {
    if (request_.job.calibration.held_out > 0 && calibrates_) {
      const ModelConfig& config = request_.model.config();
      for (Lane* lane : lanes_.stage(last_stage)) {
        const TokenShare::Part& held_out = lane->share.held_out;
        const double flops =
            2 * held_out.mean_chunk() * static_cast<double>(config.vocab_size * config.hidden_size);
        compute(*lane, "held out", {{"loss", flops, 2 * static_cast<double>(held_out.chunks)}});
      }
    }
    std::vector<OperationId> written;
    for (int stage = 0; stage < choice_.grid.stages; ++stage)
      if (const OperationId last = lanes_.at(stage, 0).written; last >= 0) written.push_back(last);
    put(lanes_.at(0, 0), "export", lasting(0), written);
    meet(lanes_.world(), "export", costs_.barrier(places(lanes_.world())));
  }

  SimulatedJob result() {
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

  const PlanRequest& request_;
  const Machine& machine_;
  const GridChoice& choice_;
  Simulator simulator_;
  Costs costs_;
  Recipe recipe_;
  Lanes lanes_;
  int files_, writes_;
  ReferenceStream reference_;
  bool calibrates_;
  Stream stream_, reference_stream_;
  LinkBytes links_;
  double read_bytes_ = 0;
  std::vector<std::string> order_;
};

}  // namespace

std::string SimulatedJob::limited_by() const {
  const auto most = std::max_element(critical.begin(), critical.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == critical.end() || seconds <= 0) return "nothing";
  return fmt::format("{}: {:.0f} %", most->first, 100 * most->second / seconds);
}

SimulatedJob simulate(const PlanRequest& request, const Plan& plan, const Machine& machine,
                      const GridChoice& choice) {
  return JobExpander(request, plan, machine, choice).run();
}

}  // namespace gptq
