#include "pipeline/job_inputs.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "base/log.h"
#include "base/process.h"
#include "model/recipe_check.h"
#include "model/source_model.h"
#include "pipeline/sample_shard.h"

namespace gptq {
namespace {

int ranks_on_device(const Backend& backend, Communicator& comm) {
  const std::string mine = backend.device_id();
  if (mine.empty()) return 1;
  const auto everyone = comm.all_gather(std::as_bytes(std::span(mine)));
  return static_cast<int>(
      std::count(everyone.begin(), everyone.end(), everyone[static_cast<std::size_t>(comm.rank())]));
}

/// What of the calibration file is not used.
void log_samples(const JobConfig& job, const CalibrationData& data) {
  if (data.left_out > 0) {
    log::info("{} calibration samples of fewer than {} tokens are left out, {} are used", data.left_out,
              job.calibration.min_length, data.samples.size());
  }
  if (data.padding > 0) log::info("{} positions of the calibration samples are padding", data.padding);
}

}  // namespace

JobInputs open_inputs(const JobConfig& job, Communicator& comm) {
  const auto open = [&job] {
    JobInputs inputs;
    inputs.held_out_part = job.calibration.held_out;
    inputs.model = open_source_model(job);
    if (job.quantization.method == "gptq") {
      inputs.calibration = read_calibration(job.calibration.path, choice_of(job.calibration),
                                            inputs.model->config().vocab_size);
      check_tokenizer(inputs.calibration, job.model.path);
    }
    return inputs;
  };
  JobInputs inputs;
  // The root looks first, so that a mistake is told once; the others then find the same files good.
  run_on_root(comm, [&] {
    inputs = open();
    log_samples(job, inputs.calibration);
    for (const std::string& note : check_recipe(*inputs.model, job)) log::warn("{}", note);
    inputs.model->check_values_outside_blocks();
  });
  return comm.is_root() ? std::move(inputs) : open();
}

std::vector<std::int64_t> JobInputs::sample_lengths() const {
  std::vector<std::int64_t> lengths;
  for (const auto& sample : calibration.samples) lengths.push_back(static_cast<std::int64_t>(sample.size()));
  return lengths;
}

std::int64_t JobInputs::held_out() const {
  return held_out_samples(static_cast<std::int64_t>(calibration.samples.size()), held_out_part);
}

std::int64_t JobInputs::summed_samples() const {
  return static_cast<std::int64_t>(calibration.samples.size()) - held_out();
}

std::int64_t JobInputs::summed_tokens() const {
  const std::vector<std::int64_t> lengths = sample_lengths();
  return std::accumulate(lengths.begin(), lengths.begin() + summed_samples(), std::int64_t{0});
}

std::int64_t JobInputs::widest_step() const {
  std::int64_t width = 0;
  for (std::int64_t block = 0; block < model->config().num_hidden_layers; ++block)
    width = std::max(width, model->layout(block).widest_step());
  return width;
}

PlanRequest plan_request(const JobConfig& job, const JobInputs& inputs, const ComputeContext& compute,
                         Communicator& comm) {
  PlanRequest request{job, *inputs.model, inputs.sample_lengths(), comm.size(), compute.dtype};
  request.device = PlannedDevice::of(*compute.backend, ranks_on_device(*compute.backend, comm));
  std::array<std::int64_t, 4> most{ranks_on_this_node(comm), request.device.ranks, -host_memory_bytes(),
                                   -request.device.memory_bytes};
  comm.all_reduce_max(most);
  request.ranks_on_node = static_cast<int>(most[0]);
  request.device.ranks = static_cast<int>(most[1]);
  request.node_memory_bytes = -most[2];
  request.device.memory_bytes = -most[3];
  return request;
}

}  // namespace gptq
