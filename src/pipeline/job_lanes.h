#pragma once

#include <vector>

#include "pipeline/simulate_job.h"

/// Private to the simulation of a job.
namespace gptq {

/// Ranks of one stage whose work is the same: a rank, or many folded into one.
struct Lane {
  int stage = 0;
  int replica = 0;  ///< the first of them
  int count = 1;
  TokenShare share;
  int queue = -1, reader = -1, writer = -1, saver = -1, network = -1;
  int cores = -1;            ///< resource; -1: the rank has its own
  double most = 1;           ///< core seconds (or device seconds) a second
  OperationId last = -1;     ///< in its queue
  OperationId taken = -1;    ///< the last block's "load"
  OperationId written = -1;  ///< the last block's way to its file
  OperationId saved = -1;    ///< the last checkpoint's

  bool is_root() const { return replica == 0; }
};

/// The lanes of all stages with their queues and cores. Lane i of every stage stands for the same replicas.
class Lanes {
 public:
  Lanes(const PlanRequest& request, const std::vector<Chunk>& chunks, const Machine& machine,
        const GridChoice& choice, Simulator& simulator);

  std::vector<Lane>& all() { return lanes_; }
  int in_stage() const { return in_stage_; }
  Lane& at(int stage, int index) { return lanes_[static_cast<std::size_t>(stage * in_stage_ + index)]; }
  std::vector<Lane*> stage(int stage);
  std::vector<Lane*> world();

 private:
  std::vector<Lane> lanes_;
  int in_stage_ = 0;
};

}  // namespace gptq
