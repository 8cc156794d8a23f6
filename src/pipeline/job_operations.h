#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pipeline/job_lanes.h"

/// Private to the simulation of a job.
namespace gptq {

using LaneTeam = std::vector<Lane*>;

/// The way of one stream's hidden states: which piece of which lane is where.
struct PipeStream {
  std::vector<std::vector<OperationId>> arrived;  ///< (lane of a stage, piece); empty: it is here
};

/// The operations that a job is made of, put into lanes: work, meetings, messages, files.
class JobOperations {
 public:
  /// All must outlive it.
  JobOperations(const PlanRequest& request, const Plan& plan, const Machine& machine,
                const GridChoice& choice);

  Lanes& lanes() { return lanes_; }
  const Costs& costs() const { return costs_; }
  const TokenShare& everyone() const { return everyone_; }  ///< the samples of all replicas
  RankPlaces places(const LaneTeam& team) const;

  // ---- work
  OperationId compute(Lane& lane, const char* phase, const WorkList& work,
                      const std::vector<OperationId>& after = {});
  /// The same beside the copies of rows that do not lie where the kernels run: the longer of both.
  OperationId compute_rows(Lane& lane, const char* phase, const WorkList& work, double bytes,
                           const std::vector<OperationId>& after = {});
  OperationId wait(Lane& lane, const char* phase, const std::vector<OperationId>& after);
  void spend(Lane& lane, const char* phase, double seconds);

  // ---- messages
  /// All of them come together; then each is busy for so long.
  void meet(const LaneTeam& team, const char* phase, double seconds);
  /// A ring in which each rank sends so many bytes, to be counted.
  void count_ring(double bytes_a_rank, const RankPlaces& places);
  /// Each rank sends so many bytes, as many to each other: in so many rounds.
  void exchange(const LaneTeam& team, const char* phase, double bytes_a_rank, double rounds);
  /// Work on all chunks of a stage, a piece after the other, each when it has arrived.
  using PieceWork = std::function<std::pair<WorkList, double>(const Lane&)>;  ///< and bytes of rows
  std::vector<std::vector<OperationId>> flow(int stage, const char* phase, const PipeStream& stream,
                                             const PieceWork& work);
  /// Pieces leave for the next stage as they are done.
  void hand_off(int stage, const std::vector<std::vector<OperationId>>& done, PipeStream& stream);

  // ---- files
  /// A block's way into the memory of the ranks, beside their work; `prepares`: it is made ready to multiply.
  void load(const LaneTeam& team, const BlockWork& work, bool prepares);
  /// Reading begins.
  void start_reading();
  /// A finished block's way to its file, beside the work.
  void write(int stage, const BlockWork& work);
  /// A copy of the state, and its way to its file beside the work.
  void checkpoint(const LaneTeam& team, double streams);
  void wait_for_files();

  SimulatedJob run();

 private:
  OperationId put(Lane& lane, const char* phase, Operation operation, const std::vector<OperationId>& after);
  Operation computing(const Lane& lane, double seconds) const;
  OperationId read(Lane& lane, const BlockWork& work, bool prepares);
  void write_from(Lane& lane, const WorkList& pack, double bytes);
  double row_rate() const;
  int pieces() const;

  const PlanRequest& request_;
  const Machine& machine_;
  const GridChoice& choice_;
  Place place_;
  Simulator simulator_;
  Costs costs_;
  std::vector<Chunk> chunks_;
  TokenShare everyone_;
  Lanes lanes_;
  int files_, writes_;
  LinkBytes links_;
  double read_bytes_ = 0;
  std::vector<std::string> order_;
};

}  // namespace gptq
