#include <algorithm>
#include <optional>

#include "base/error.h"
#include "pipeline/plan.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

bool fits_device(const Plan& plan) {
  return !plan.device.separate || plan.device_memory.peak_bytes <= plan.device.memory_bytes;
}

bool fits_host(const PlanRequest& request, const Plan& plan) {
  return plan.host.peak_bytes <= request.host_bytes_per_rank();
}

}  // namespace

bool fits(const PlanRequest& request, const Plan& plan) {
  return fits_device(plan) && fits_host(request, plan);
}

namespace {

/// A change of settings, tried.
class Alternatives {
 public:
  explicit Alternatives(const PlanRequest& request) : request_(request) {}

  void try_all(const Plan& plan) {
    if (plan.device.separate && plan.activation_place == Place::device) try_place("host");
    if (plan.activation_place != Place::disk && found_.empty()) try_place("disk");
    if (plan.device.ranks > 1) try_own_devices();
    try_chunks(plan, "");
    if (found_.empty() && plan.device.separate) try_chunks(plan, "host");
    try_ranks(plan);
  }

  /// "Use A (12.3 GB), or B (9.9 GB)."; what cannot help at all otherwise.
  std::string text() const {
    if (found_.empty()) return smallest();
    std::string result = "What would fit: ";
    for (std::size_t i = 0; i < found_.size(); ++i) result += (i == 0 ? "" : "; or ") + found_[i];
    return result + ".";
  }

 private:
  /// What the job needs at least on these ranks.
  std::string smallest() const {
    JobConfig job = request_.job;
    job.compute.activations = request_.device.separate ? "host" : "disk";
    job.calibration.chunk_tokens = 1;  // a sample is not cut
    const Plan plan = make_plan(with(job, request_.ranks, request_.device, request_.ranks_on_node));
    const std::string host = fmt::format("{} of host memory a rank", bytes_text(plan.host.peak_bytes));
    if (!plan.device.separate)
      return fmt::format("No setting of this job makes it fit: it needs {} at least.", host);
    return fmt::format(
        "No setting of this job makes it fit: with compute.activations: {} and one sample a chunk it needs "
        "{} "
        "of the device and {}.",
        job.compute.activations, bytes_text(plan.device_memory.peak_bytes), host);
  }

  PlanRequest with(const JobConfig& job, int ranks, const PlannedDevice& device, int on_node) const {
    return {job,
            request_.model,
            request_.sample_lengths,
            ranks,
            request_.compute,
            device,
            request_.node_memory_bytes,
            on_node,
            ranks % request_.stages == 0 ? request_.stages : 1};
  }

  std::optional<Plan> planned(const JobConfig& job, int ranks, const PlannedDevice& device,
                              int on_node) const {
    const PlanRequest other = with(job, ranks, device, on_node);
    Plan plan = make_plan(other);
    return fits(other, plan) ? std::optional<Plan>(std::move(plan)) : std::nullopt;
  }

  std::optional<Plan> planned(const JobConfig& job) const {
    return planned(job, request_.ranks, request_.device, request_.ranks_on_node);
  }

  void add(const std::string& setting, const Plan& plan) {
    std::string figures = bytes_text(plan.host.peak_bytes);
    if (plan.device.separate)
      figures =
          fmt::format("{} of the device, {} of the host", bytes_text(plan.device_memory.peak_bytes), figures);
    found_.push_back(fmt::format("{} ({})", setting, figures));
  }

  void try_place(const std::string& place) {
    JobConfig job = request_.job;
    job.compute.activations = place;
    if (const auto plan = planned(job)) add("compute.activations: " + place, *plan);
  }

  void try_own_devices() {
    PlannedDevice own = request_.device;
    own.memory_bytes *= own.ranks;
    own.ranks = 1;
    const auto plan = planned(request_.job, request_.ranks, own, request_.ranks_on_node);
    if (plan) add("a GPU for each rank", *plan);
  }

  /// The largest power of two below today's. Not below a sample: one that is longer is a chunk of its own.
  void try_chunks(const Plan& present, const std::string& place) {
    const auto longest = std::max_element(request_.sample_lengths.begin(), request_.sample_lengths.end());
    if (longest == request_.sample_lengths.end()) return;
    JobConfig job = request_.job;
    if (!place.empty()) job.compute.activations = place;
    for (std::int64_t tokens = std::int64_t{1} << 20; tokens >= 256; tokens /= 2) {
      if (tokens >= present.chunk_tokens || tokens < *longest) continue;
      job.calibration.chunk_tokens = tokens;
      const auto plan = planned(job);
      if (!plan) continue;
      const std::string also = place.empty() ? "" : "compute.activations: " + place + " with ";
      return add(fmt::format("{}calibration.chunk_tokens: {}", also, tokens), *plan);
    }
  }

  /// More ranks, no more of them on a node than now and never more than there are chunks.
  void try_ranks(const Plan& present) {
    for (std::int64_t ranks = 2 * request_.ranks; ranks <= std::min<std::int64_t>(present.chunks, 4096);
         ranks *= 2) {
      const auto plan =
          planned(request_.job, static_cast<int>(ranks), request_.device, request_.ranks_on_node);
      if (plan) return add(fmt::format("{} ranks, {} a node", ranks, request_.ranks_on_node), *plan);
    }
    for (int on_node = request_.ranks_on_node / 2; on_node >= 1; on_node /= 2) {
      const auto plan = planned(request_.job, request_.ranks, request_.device, on_node);
      if (plan) return add(fmt::format("{} of the ranks a node", on_node), *plan);
    }
  }

  const PlanRequest& request_;
  std::vector<std::string> found_;
};

std::string alternatives(const PlanRequest& request, const Plan& plan) {
  Alternatives found(request);
  found.try_all(plan);
  return found.text();
}

}  // namespace

void require_fit(const PlanRequest& request, const Plan& plan) {
  if (!fits_device(plan)) {
    const DeviceMemory& memory = plan.device_memory;
    throw UsageError(
        "this job does not fit the device: a rank needs {} of its memory (activations {}, weights {}, "
        "scratch {}, Hessian and factor {}, libraries {}), and it can have {}{}. {}",
        bytes_text(memory.peak_bytes), bytes_text(memory.activation_bytes), bytes_text(memory.weight_bytes),
        bytes_text(memory.scratch_bytes), bytes_text(memory.quantizing_bytes()),
        bytes_text(memory.library_bytes), bytes_text(plan.device.memory_bytes),
        plan.device.ranks > 1 ? fmt::format(" ({} ranks share the device)", plan.device.ranks) : "",
        alternatives(request, plan));
  }
  if (!fits_host(request, plan)) {
    const HostMemory& memory = plan.host;
    throw UsageError(
        "this job does not fit: a rank needs {} (activations {}, weights {}, Hessian {}, checkpoint's "
        "snapshot "
        "{}), and {} rank(s) share {} on this node. {}",
        bytes_text(memory.peak_bytes), bytes_text(memory.activation_bytes), bytes_text(memory.weight_bytes),
        bytes_text(memory.hessian_bytes), bytes_text(memory.snapshot_bytes), request.ranks_on_node,
        bytes_text(request.node_memory_bytes), alternatives(request, plan));
  }
}

}  // namespace gptq
