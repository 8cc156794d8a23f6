#include "pipeline/plan_command.h"

#include <algorithm>
#include <charconv>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "io/calibration.h"
#include "model/expert_model.h"
#include "model/recipe_check.h"
#include "model/source_model.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

/// Two numbers with `between` in the middle, both at least 1.
std::optional<std::pair<std::int64_t, std::int64_t>> two_numbers(const std::string& text,
                                                                 const std::string& between) {
  const std::size_t middle = text.find(between);
  if (middle == std::string::npos) return std::nullopt;
  std::int64_t first = 0, second = 0;
  const auto read = [](const char* begin, const char* end, std::int64_t& value) {
    const auto [stop, error] = std::from_chars(begin, end, value);
    return error == std::errc() && stop == end && value >= 1;
  };
  const char* const start = text.data();
  if (!read(start, start + middle, first) ||
      !read(start + middle + between.size(), start + text.size(), second))
    return std::nullopt;
  return std::pair(first, second);
}

/// The job on some ranks of the machine.
class Forecaster {
 public:
  Forecaster(const JobConfig& job, const ForecastOptions& options)
      : machine_(read_machine(find_machine(options.machine))), request_{job, shape_of_source(job), {}} {
    for (const std::string& note : check_recipe(request_.model, job)) log::warn("{}", note);
    wish_ = options.grid.empty() ? GridWish{job.parallel.stages, job.parallel.replicas}
                                 : parse_grid(options.grid);
    if (job.quantization.method == "gptq") {
      request_.sample_lengths = options.samples.empty()
                                    ? lengths_of_samples(job, request_.model.config().vocab_size)
                                    : parse_samples(options.samples);
    }
    if (options.ranks_per_node > 0) use_places(options.ranks_per_node);
  }

  int places_of_a_node() const { return machine_.node.ranks; }

  Forecast on(int ranks) const { return choose(on_machine(request_, machine_, ranks), machine_, wish_); }

 private:
  void use_places(int ranks) {
    if (!machine_.is_cpu() && ranks > machine_.node.ranks) {
      throw UsageError("--ranks-per-node: {} ranks on a node of {} devices; each rank needs its own", ranks,
                       machine_.node.ranks);
    }
    machine_.node.ranks = ranks;
  }

  Machine machine_;
  PlanRequest request_;
  GridWish wish_;
};

nlohmann::ordered_json seconds_json(const std::map<std::string, double>& seconds) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [phase, value] : seconds) json[phase] = value;
  return json;
}

}  // namespace

ModelShape shape_of_source(const JobConfig& job) {
  const bool weights = has_weight_files(job.model.path) && !read_expert_model(job.model.path);
  if (weights) return ModelShape(*open_source_model(job));
  log::warn("{} is planned from its config.json alone, every tensor in the type that it names",
            job.model.path);
  return ModelShape(std::filesystem::path(job.model.path), job.quantization.rotation != "none");
}

std::vector<std::int64_t> parse_samples(const std::string& text) {
  const auto numbers = two_numbers(text, "x");
  if (!numbers || numbers->first > 100'000'000)
    throw UsageError("--samples: '{}' is no number of samples; write COUNTxTOKENS, as in 128x2048", text);
  return std::vector<std::int64_t>(static_cast<std::size_t>(numbers->first), numbers->second);
}

std::vector<std::int64_t> lengths_of_samples(const JobConfig& job, std::int64_t vocab_size) {
  std::vector<std::int64_t> lengths;
  if (job.quantization.method != "gptq") return lengths;
  const CalibrationData data = read_calibration(job.calibration.path, choice_of(job.calibration), vocab_size);
  check_tokenizer(data, job.model.path);
  for (const auto& sample : data.samples) lengths.push_back(static_cast<std::int64_t>(sample.size()));
  return lengths;
}

Forecast forecast_job(const JobConfig& job, const ForecastOptions& options) {
  const Forecaster forecaster(job, options);
  return forecaster.on(options.ranks > 0 ? options.ranks : forecaster.places_of_a_node());
}

std::vector<Forecast> forecast_scaling(const JobConfig& job, const ForecastOptions& options,
                                       const std::string& range) {
  const auto bounds = two_numbers(range, "..");
  if (!bounds || bounds->second < bounds->first || bounds->second > (1 << 20))
    throw UsageError("--scaling: '{}' is no range of ranks; write FIRST..LAST, as in 1..1024", range);
  const Forecaster forecaster(job, options);
  std::vector<Forecast> forecasts;
  std::string last_refusal;
  for (std::int64_t ranks = bounds->first; ranks <= bounds->second; ranks *= 2) {
    try {
      forecasts.push_back(forecaster.on(static_cast<int>(ranks)));
    } catch (const UsageError& error) {
      last_refusal = error.what();
      log::warn("{} ranks: {}", ranks, error.what());
    }
  }
  if (forecasts.empty())
    throw UsageError("no number of ranks in {} can do this job: {}", range, last_refusal);
  return forecasts;
}

std::string scaling_csv(const std::vector<Forecast>& forecasts) {
  std::string text =
      "ranks,stages,replicas,seconds,speedup,efficiency,limited_by,most_idle,between_nodes_bytes,read_"
      "bytes\n";
  const auto ranks_of = [](const Forecast& forecast) { return forecast.choice.grid.ranks(); };
  for (const Forecast& forecast : forecasts) {
    const double speedup = forecasts.front().simulated.seconds / forecast.simulated.seconds;
    const double more = static_cast<double>(ranks_of(forecast)) / ranks_of(forecasts.front());
    text +=
        fmt::format("{},{},{},{:.4g},{:.4g},{:.4g},{},{:.3g},{:.4g},{:.4g}\n", ranks_of(forecast),
                    forecast.choice.grid.stages, forecast.choice.grid.replicas, forecast.simulated.seconds,
                    speedup, speedup / more, forecast.simulated.limited_by(), forecast.simulated.most_idle,
                    forecast.simulated.links.fabric, forecast.simulated.read_bytes);
  }
  return text;
}

std::string to_json(const Forecast& forecast) {
  const SimulatedJob& job = forecast.simulated;
  nlohmann::ordered_json json;
  json["machine"] = forecast.machine;
  json["figures"] = forecast.provenance;
  json["ranks"] = forecast.choice.grid.ranks();
  json["quantizable"] = forecast.quantizable;
  json["stages"] = forecast.choice.grid.stages;
  json["replicas"] = forecast.choice.grid.replicas;
  json["ranks_on_node"] = forecast.choice.ranks_on_node;
  json["activations"] = name_of(forecast.plan.activation_place);
  json["seconds"] = job.seconds;
  json["checkpoints"] = job.checkpoints;
  json["phases"] = seconds_json(job.root);
  json["critical"] = seconds_json(job.critical);
  json["limited_by"] = job.limited_by();
  json["idle_share"] = {{"least", job.least_idle}, {"most", job.most_idle}};
  json["bytes"] = {{"inside_nodes", job.links.node},
                   {"between_nodes", job.links.fabric},
                   {"read", job.read_bytes},
                   {"output", forecast.plan.output_bytes},
                   {"checkpoint", forecast.plan.checkpoint_bytes}};
  json["memory"] = {{"host_peak", forecast.plan.host.peak_bytes},
                    {"device_peak", forecast.plan.device_memory.peak_bytes}};
  json["reasons"] = forecast.reasons;
  return json.dump(2) + "\n";
}

}  // namespace gptq
