#include "pipeline/simulate_job.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "pipeline/job_operations.h"

namespace gptq {
namespace {

/// Of StageSummer.
constexpr std::int64_t kMostRounds = 8;
/// Of measure_rates(), which a job begins with.
constexpr double kMeasureSeconds = 0.25;

/// A job's schedule as operations, in the order of QuantizeJob, BlockQuantizer and StageSolver.
class JobExpander {
 public:
  /// checkpoints: so many are written on the way, evenly spread over the blocks.
  JobExpander(const PlanRequest& request, const Plan& plan, const Machine& machine, const GridChoice& choice,
              std::int64_t checkpoints)
      : request_(request),
        machine_(machine),
        choice_(choice),
        recipe_(request.job.quantization),
        operations_(request, plan, machine, choice),
        reference_(plan.reference),
        calibrates_(request.job.quantization.method == "gptq" && !request.sample_lengths.empty()),
        checkpoints_(checkpoints) {}

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
      const BlockWork work(request_.model, request_.job, recipe_, block, request_.compute,
                           choice_.grid.replicas);
      routed_ = work.routed(operations_.everyone());
      for (std::size_t stage = 0; stage < visits.size(); ++stage) {
        for (; next[stage] < visits[stage].size() && visits[stage][next[stage]].block == block; ++next[stage])
          visit(visits[stage][next[stage]], static_cast<int>(stage), work);
      }
      save(block, schedule.blocks);
    }
    finish(static_cast<int>((schedule.blocks - 1) % choice_.grid.stages));
    return operations_.run();
  }

 private:
  /// A reference pass keeps the inputs of all steps where it cannot go beside.
  bool keeps_inputs() const { return reference_ == ReferenceStream::all && choice_.grid.stages > 1; }
  bool helps() const { return choice_.helpers && choice_.grid.stages > 1 && !choice_.full_precision; }
  Lanes& lanes() { return operations_.lanes(); }
  double seconds(const WorkList& work) const { return operations_.costs().seconds(work); }

  /// The samples that a lane's work on a step or group is about.
  const TokenShare& share(const Lane& lane, bool experts) const { return experts ? routed_ : lane.share; }

  void start() {
    for (Lane& lane : lanes().all()) {
      operations_.spend(lane, "start", machine_.startup);
      operations_.spend(lane, "measure", kMeasureSeconds);
    }
    if (calibrates_) embed();
    operations_.start_reading();
  }

  void embed() {
    const ModelConfig& config = request_.model.config();
    const auto hidden = static_cast<double>(config.hidden_size);
    const double table =
        hidden * static_cast<double>(config.vocab_size) * static_cast<double>(size_of(config.dtype));
    for (Lane* lane : lanes().stage(0)) {
      const double streams = reference_ == ReferenceStream::all ? 2 : 1;
      const double tables = reference_ == ReferenceStream::none ? 1 : 2;  // each stream reads its own
      const auto tokens = static_cast<double>(lane->share.all.tokens);
      operations_.compute(*lane, "embed",
                          {{"decode", table, tables}, {"rows", streams * tokens * hidden * 6, 1}});
    }
  }

  void visit(const Visit& visit, int stage, const BlockWork& work) {
    switch (visit.kind) {
      case Visit::Kind::help:
        return;  // its operations come with those of the stage that holds the block
      case Visit::Kind::reference:
        operations_.load(lanes().stage(stage), work, calibrates_);
        return reference_pass(stage, work);
      case Visit::Kind::quantize:
        if (!keeps_inputs() && !choice_.full_precision)
          operations_.load(lanes().stage(stage), work, calibrates_);
        return quantize(stage, work);
    }
  }

  /// The rows that experts need, and what they give, go through all ranks of the stage.
  void to_experts(int stage, const BlockWork& work, double streams) {
    route(
        stage, streams, [&](const Lane& lane) { return work.exchange_bytes(lane.share.all); }, work);
  }
  void from_experts(int stage, const BlockWork& work, double streams) {
    route(
        stage, streams, [&](const Lane& lane) { return work.return_bytes(lane.share.all); }, work);
  }
  void route(int stage, double streams, const std::function<double(const Lane&)>& bytes,
             const BlockWork& work) {
    double most = 0;
    for (const Lane* lane : lanes().stage(stage)) most = std::max(most, streams * bytes(*lane));
    operations_.exchange(lanes().stage(stage), "exchange", most,
                         static_cast<double>(work.expert_share().own));
  }

  void reference_pass(int stage, const BlockWork& work) {
    const char* phase = choice_.full_precision ? "forward" : "reference";
    const bool experts = work.step_has_experts(work.steps() - 1);
    if (experts) to_experts(stage, work, 1);
    const auto done = operations_.flow(stage, phase, reference_stream_, [&](const Lane& lane) {
      double bytes = work.enter_bytes(lane.share.all);
      for (std::int64_t step = 0; step < work.steps(); ++step)
        bytes += work.advance_bytes(step, lane.share.all);
      return std::pair(work.pass(lane.share.all, routed_.all), bytes);
    });
    if (experts) from_experts(stage, work, 1);
    operations_.hand_off(stage, done, reference_stream_);
  }

  void advance_reference(const LaneTeam& team, std::int64_t step, const BlockWork& work) {
    const bool experts = work.step_has_experts(step);
    for (Lane* lane : team)
      operations_.compute_rows(*lane, "reference", work.advance(step, share(*lane, experts).all),
                               work.advance_bytes(step, lane->share.all));
  }

  void quantize(int stage, const BlockWork& work) {
    const LaneTeam team = lanes().stage(stage);
    const bool forward = calibrates_ && !choice_.full_precision;
    const bool beside = forward && reference_ == ReferenceStream::all && !keeps_inputs();
    const bool sequential = request_.job.quantization.true_sequential;
    if (forward) {
      operations_.flow(stage, "forward", stream_, [&](const Lane& lane) {
        return std::pair(work.enter(lane.share.all), work.enter_bytes(lane.share.all));
      });
      for (Lane* lane : team)
        if (beside)
          operations_.compute_rows(*lane, "reference", work.enter(lane->share.all),
                                   work.enter_bytes(lane->share.all));
    }
    for (std::int64_t step = 0; step < work.steps(); ++step) {
      const bool reference_first = work.reference_first(step), last = step + 1 == work.steps();
      const bool experts = work.step_has_experts(step);
      if (experts && !last && calibrates_) to_experts(stage, work, beside ? 2 : 1);
      if (reference_first && beside) advance_reference(team, step, work);
      const std::int64_t end = last ? work.groups() : work.first_group(step + 1);
      for (std::int64_t group = work.first_group(step); group < end; ++group) {
        if (group > 0) pass_safe_point(stage);
        if (work.quantizes(group)) quantize_group(stage, group, work);
        if (group == 0 && reference_ == ReferenceStream::held_out && forward) pass_held_out(team, work);
      }
      if (forward) {
        const auto done = advance(stage, step, sequential, work);
        if (experts && last) from_experts(stage, work, beside ? 2 : 1);
        if (last && sequential) operations_.hand_off(stage, done, stream_);
      }
      if (!reference_first && beside) advance_reference(team, step, work);
    }
    if (forward && !sequential) pass_again(stage, work);
    operations_.write(stage, work);
    pass_safe_point(stage);
  }

  void pass_held_out(const LaneTeam& team, const BlockWork& work) {
    for (Lane* lane : team)
      operations_.compute(*lane, "held out", work.pass(lane->share.held_out, routed_.held_out));
  }

  std::vector<std::vector<OperationId>> advance(int stage, std::int64_t step, bool replaces,
                                                const BlockWork& work) {
    const bool experts = work.step_has_experts(step);
    return operations_.flow(stage, "forward", {}, [&](const Lane& lane) {
      WorkList advancing = work.advance(step, share(lane, experts).all);
      const WorkList replacing = work.replace(step);
      if (replaces) advancing.insert(advancing.end(), replacing.begin(), replacing.end());
      return std::pair(advancing, work.advance_bytes(step, lane.share.all));
    });
  }

  /// Once more, with the quantized weights.
  void pass_again(int stage, const BlockWork& work) {
    if (work.step_has_experts(work.steps() - 1)) {
      to_experts(stage, work, 1);
      from_experts(stage, work, 1);
    }
    const auto done = operations_.flow(stage, "forward", {}, [&](const Lane& lane) {
      WorkList again = work.pass(lane.share.all, routed_.all);
      const WorkList preparing = work.prepare();
      again.insert(again.end(), preparing.begin(), preparing.end());
      return std::pair(again, work.enter_bytes(lane.share.all));
    });
    operations_.hand_off(stage, done, stream_);
  }

  /// Safe points of one recipe are passed by all ranks; in a stage that works alone, by it.
  void pass_safe_point(int stage) {
    if (!calibrates_) return;
    const LaneTeam team = choice_.full_precision ? lanes().stage(stage) : lanes().world();
    operations_.meet(team, "checkpoint", operations_.costs().barrier(operations_.places(team)));
  }

  void quantize_group(int stage, std::int64_t group, const BlockWork& work) {
    const LaneTeam team = lanes().stage(stage);
    const bool experts = work.has_experts(group);
    const LaneTeam solvers = helps() && calibrates_ && !experts ? lanes().world() : team;
    RankPlaces replicas = operations_.places(team), all = operations_.places(solvers);
    if (experts)  // ranks that share an expert
      replicas = all = {work.expert_share().ranks, std::min(work.expert_share().ranks, all.per_node)};
    if (calibrates_) {
      sum(team, replicas, group, work);
      factor(stage, solvers, group, work);
      operations_.meet(solvers, "reduce", operations_.costs().broadcast(work.factor_bytes(group), all));
      count(solvers, (all.ranks - 1.0) / all.ranks * work.factor_bytes(group), all);
    }
    for (Lane* lane : solvers) {
      if (calibrates_) operations_.compute(*lane, "factor", work.expand(group));
      if (work.corrects(group)) operations_.compute(*lane, "correct", work.correct(group, all.ranks));
      operations_.compute(*lane, "solve", work.solve(group, all.ranks));
      if (const WorkList refining = work.refine(group, all.ranks); !refining.empty())
        operations_.compute(*lane, "refine", refining);
    }
    operations_.meet(solvers, "gather", operations_.costs().all_gather(work.code_bytes(group), all));
    count(solvers, (all.ranks - 1.0) / all.ranks * work.code_bytes(group), all);
    for (Lane* lane : team) operations_.compute(*lane, "gather", work.gather(group, all.ranks));
    if (request_.job.calibration.held_out > 0 && calibrates_) {
      for (Lane* lane : team)
        operations_.compute(*lane, "held out", work.judge(group, share(*lane, experts).held_out));
      operations_.meet(team, "held out", operations_.costs().barrier(operations_.places(team)));
    }
  }

  /// Bytes of a ring among some ranks, and of all rings of that kind in the team.
  void count(const LaneTeam& team, double bytes_a_rank, const RankPlaces& ring) {
    const int rings = operations_.places(team).ranks / ring.ranks;
    for (int i = 0; i < rings; ++i) operations_.count_ring(bytes_a_rank, ring);
  }

  void sum(const LaneTeam& team, const RankPlaces& replicas, std::int64_t group, const BlockWork& work) {
    const bool experts = work.has_experts(group);
    double shortest = std::numeric_limits<double>::infinity();
    for (Lane* lane : team) {
      const TokenShare::Part& summed = share(*lane, experts).summed;
      const WorkList list = work.sums(group, summed);
      const auto rounds = static_cast<double>(std::clamp<std::int64_t>(summed.chunks, 1, kMostRounds));
      shortest = std::min(shortest, seconds(list) / rounds / lane->most);
      operations_.compute_rows(*lane, "hessian", list,
                               experts ? 0 : work.summed_bytes(group, lane->share.summed));
    }
    const double maxima = operations_.costs().barrier(replicas);
    const double whole = operations_.costs().all_reduce(work.sum_bytes(group), replicas);
    const double seen = machine_.is_cpu() ? whole : std::max(maxima, whole - shortest);
    operations_.meet(team, "reduce", maxima + seen);
    count(team, 2 * (replicas.ranks - 1.0) / replicas.ranks * work.sum_bytes(group), replicas);
  }

  /// The root works, the others wait; owners of experts factor their own.
  void factor(int stage, const LaneTeam& solvers, std::int64_t group, const BlockWork& work) {
    if (work.has_experts(group)) {
      for (Lane* lane : solvers) operations_.compute(*lane, "factor", work.factor(group));
      return;
    }
    Lane& root = lanes().at(stage, 0);
    const OperationId made = operations_.compute(root, "factor", work.factor(group));
    for (Lane* lane : solvers)
      if (lane != &root) operations_.wait(*lane, "factor", {made});
  }

  /// Behind some blocks, the state at a block's end.
  void save(std::int64_t block, std::int64_t blocks) {
    const auto before = [&](std::int64_t done) { return done * (checkpoints_ + 1) / blocks; };
    if (checkpoints_ == 0 || block + 1 == blocks || before(block) == before(block + 1)) return;
    const int next = static_cast<int>((block + 1) % choice_.grid.stages);
    operations_.checkpoint(lanes().stage(next), reference_ == ReferenceStream::all ? 2 : 1);
  }

  void finish(int last_stage) {
    if (request_.job.calibration.held_out > 0 && calibrates_) {
      const ModelConfig& config = request_.model.config();
      for (Lane* lane : lanes().stage(last_stage)) {
        const TokenShare::Part& held_out = lane->share.held_out;
        const double flops =
            2 * held_out.mean_chunk() * static_cast<double>(config.vocab_size * config.hidden_size);
        operations_.compute(*lane, "held out", {{"loss", flops, 2 * static_cast<double>(held_out.chunks)}});
      }
    }
    operations_.wait_for_files();
  }

  const PlanRequest& request_;
  const Machine& machine_;
  const GridChoice& choice_;
  Recipe recipe_;
  JobOperations operations_;
  ReferenceStream reference_;
  bool calibrates_;
  std::int64_t checkpoints_;
  TokenShare routed_;  ///< of the present block's experts
  PipeStream stream_, reference_stream_;
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
  SimulatedJob job = JobExpander(request, plan, machine, choice, 0).run();
  if (plan.host.snapshot_bytes == 0) return job;
  // How long the job takes says how many checkpoints it writes; at most one a block is simulated.
  const double interval = request.job.checkpoint.interval;
  const auto blocks = static_cast<double>(plan.blocks - 1);
  const double due = interval > 0 ? std::floor(job.seconds / interval) : blocks;
  const auto checkpoints = static_cast<std::int64_t>(std::min(due, blocks));
  if (checkpoints == 0) return job;
  job = JobExpander(request, plan, machine, choice, checkpoints).run();
  job.checkpoints = checkpoints;
  return job;
}

}  // namespace gptq
