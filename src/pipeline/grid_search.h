#pragma once

#include <string>
#include <vector>

#include "pipeline/simulate_job.h"

namespace gptq {

/// What is asked for of the grid; 0: open.
struct GridWish {
  int stages = 0;
  int replicas = 0;
};

/// A job on a described machine: how it would be laid out, and what that would take.
struct Forecast {
  GridChoice choice;
  Plan plan;
  SimulatedJob simulated;
  std::string machine;               ///< its name
  std::string provenance;            ///< where its figures come from; a data sheet is named as such
  std::vector<std::string> reasons;  ///< for this grid and against others
  double bound = 0;                  ///< seconds that no schedule of this grid can beat
  bool uncounted_copies = false;     ///< activations move at a rate that the machine does not say
  bool quantizable = true;           ///< false: no version of the program runs this family yet
  double disk_speed = 0;             ///< bytes/s that the job's nodes together write
};

/// Throws UsageError where ranks are on several nodes and the description does not say what links those.
void require_links(const Machine& machine, const RankPlaces& places);
/// The request on so many ranks of this machine: memory, places, type of arithmetic.
PlanRequest on_machine(PlanRequest request, const Machine& machine, int ranks);

/// Takes the grid with the least simulated time that fits; of equals the one with fewer stages. Without a
/// wish it is one of a single stage, because this version runs no other; grids of more are simulated to say
/// what they would be worth. What a bound rules out is not simulated. Throws UsageError where nothing fits,
/// with the nearest settings that would, and for a wish that the ranks cannot fulfil, with the nearest that
/// they can.
Forecast choose(const PlanRequest& request, const Machine& machine, const GridWish& wish);

/// The forecast's part of a plan.
std::string forecast_text(const Forecast& forecast);

/// "2x4" → 2 stages of 4 replicas. Throws UsageError.
GridWish parse_grid(const std::string& text);

}  // namespace gptq
