#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "pipeline/costs.h"
#include "pipeline/plan.h"
#include "pipeline/simulator.h"
#include "pipeline/visit_schedule.h"

namespace gptq {

/// How a job is laid out on machines.
struct GridChoice {
  GridShape grid;
  bool helpers = true;          ///< ranks of other stages take their part of the rows
  bool full_precision = false;  ///< every block's Hessians from the unquantized stream
  int threads = 1;              ///< of a rank, on a CPU
  int ranks_on_node = 1;
};

/// What the simulation of a job says. Seconds are wall seconds.
struct SimulatedJob {
  double seconds = 0;
  std::map<std::string, double> root;      ///< seconds by phase of rank 0, as its PhaseClock would see them
  std::map<std::string, double> critical;  ///< seconds by phase of the chain that decides the time
  double least_idle = 0, most_idle = 0;    ///< shares of a rank's time in which it waits for others
  LinkBytes links;
  double read_bytes = 0;         ///< from the file system, by all nodes
  std::int64_t checkpoints = 0;  ///< written on the way
  std::int64_t operations = 0;
  std::vector<std::string> order;  ///< the phases of rank 0 in their order, one entry an operation of it

  /// The phase with most of the critical chain and its share: "forward: 41 %".
  std::string limited_by() const;
};

/// Expands a job into operations and simulates it. Phases have the names of the job's own clock. What is
/// counted: load (a block is read and decoded beside the work, files shared by all readers; ranks of a node
/// that read the same bytes read them once from the file system), embed, forward, reference, held out,
/// hessian, reduce (sums, and the factor's broadcast), factor, correct, refine, solve, gather, handoff
/// (hidden states to the next stage, in pieces), exchange (rows to experts and back), checkpoint (the
/// meetings at safe points; so many copies of the state as the interval asks for, at ends of blocks, written
/// beside the work), export (packing and writing beside the work; a block waits for the one before). Rows
/// that do not lie where the kernels run are copied beside the kernels. With a device the sums over ranks
/// hide behind the products of the last round. Experts are dealt out evenly and their tokens too; an owner
/// takes one after the other. Not counted: what a verification or an evaluation takes. Ranks with equal work
/// are folded into one lane where there are many.
SimulatedJob simulate(const PlanRequest& request, const Plan& plan, const Machine& machine,
                      const GridChoice& choice);

}  // namespace gptq
