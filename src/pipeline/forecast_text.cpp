#include <fmt/format.h>

#include <algorithm>

#include "pipeline/grid_search.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

std::string line(const std::string& what, const std::string& value) {
  return fmt::format("  {:<22}{}\n", what, value);
}

std::string bytes(double count) {
  return bytes_text(static_cast<std::int64_t>(count));
}

std::vector<std::string> notes_of(const Forecast& forecast) {
  std::vector<std::string> notes;
  if (!forecast.quantizable) {
    notes.push_back(
        "a forecast by shapes alone: quantize does not run this family yet, and routing is taken to be "
        "uniform");
  }
  if (forecast.uncounted_copies) {
    notes.push_back(fmt::format(
        "activations lie on the {}: the time of their copies is not counted, the machine description has no "
        "device.copy",
        name_of(forecast.plan.activation_place)));
  }
  return notes;
}

}  // namespace

std::string forecast_text(const Forecast& forecast) {
  const SimulatedJob& job = forecast.simulated;
  const GridShape& grid = forecast.choice.grid;
  std::string text = fmt::format("forecast on {} ({})\n", forecast.machine, forecast.provenance);
  text += line("grid", fmt::format("{} stage(s) x {} replica(s), {} rank(s) a node", grid.stages,
                                   grid.replicas, forecast.choice.ranks_on_node));
  text += line("time", fmt::format("{} ({:.0f} to {:.0f} % of a rank's time is waiting for others)",
                                   duration_text(job.seconds), 100 * job.least_idle, 100 * job.most_idle));
  text += line("limited by", job.limited_by());
  std::vector<std::pair<std::string, double>> phases(job.root.begin(), job.root.end());
  std::stable_sort(phases.begin(), phases.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [phase, seconds] : phases) {
    if (seconds >= 0.001 * job.seconds)
      text += line("  " + phase,
                   fmt::format("{:.4g} s, {:.0f} % (rank 0)", seconds, 100 * seconds / job.seconds));
  }
  text += line("messages", fmt::format("{} inside nodes, {} between them, by all ranks",
                                       bytes(job.links.node), bytes(job.links.fabric)));
  text += line("reads", fmt::format("{} from the file system, by all nodes", bytes(job.read_bytes)));
  if (job.checkpoints > 0)
    text += line("checkpoints", fmt::format("{} on the way, written beside the work", job.checkpoints));
  for (const std::string& reason : forecast.reasons) text += line("other grids", reason);
  for (const std::string& note : notes_of(forecast)) text += line("note", note);
  return text;
}

}  // namespace gptq
