#include "io/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/process.h"
#include "io/job_json.h"

namespace gptq {
namespace {

using nlohmann::ordered_json;

double mean_output_error(const Report& report) {
  if (report.layers.empty()) return 0;
  double sum = 0;
  for (const LayerStatistics& layer : report.layers) sum += layer.relative_output_error;
  return sum / static_cast<double>(report.layers.size());
}

/// How many layers fell back for which reason.
ordered_json fallback_reasons(const Report& report) {
  ordered_json counts = ordered_json::object();
  for (const LayerStatistics& layer : report.layers) {
    if (!layer.fallback) continue;
    counts[layer.fallback_reason] = counts.value(layer.fallback_reason, 0) + 1;
  }
  return counts;
}

ordered_json summary_json(const Report& report) {
  ordered_json json;
  json["seconds"] = report.seconds;
  json["quantization_seconds"] = report.quantization_seconds();
  json["peak_memory_bytes"] = report.peak_memory_bytes;
  json["samples"] = report.samples;
  json["tokens"] = report.tokens;
  json["layers"] = report.layers.size();
  json["fallbacks"] = report.fallbacks;
  json["fallback_reasons"] = fallback_reasons(report);
  json["mean_relative_output_error"] = mean_output_error(report);
  json["source_bytes"] = report.source_bytes;
  json["output_bytes"] = report.output_bytes;
  json["ranks"] = report.ranks;
  json["threads"] = report.threads;
  json["backend"] = report.backend;
  json["device"] = report.device;
  json["activations"] = report.activations;
  json["compute_dtype"] = report.compute_dtype;
  json["calibration_sha256"] = report.calibration_sha256;
  json["output"] = report.output;
  return json;
}

ordered_json phase_json(const PhaseFigures& phase) {
  ordered_json json;
  json["seconds"] = phase.seconds;
  if (phase.flops > 0) {
    json["flops"] = phase.flops;
    json["flops_per_second"] = phase.flops_per_second();
    if (phase.limit > 0) json["share_of_matrix_rate"] = phase.share_of_limit();
  }
  if (phase.bytes > 0) {
    json["bytes"] = phase.bytes;
    json["bytes_per_second"] = phase.bytes_per_second();
  }
  return json;
}

/// NaN and infinity become null when written.
ordered_json held_out_json(const std::optional<HeldOutFigures>& figures) {
  if (!figures) return nullptr;
  return {{"samples", figures->samples},
          {"tokens", figures->tokens},
          {"predictions", figures->predictions},
          {"perplexity", figures->perplexity},
          {"source_perplexity", figures->source_perplexity},
          {"relative_hidden_error", figures->relative_hidden_error}};
}

ordered_json memory_json(const MemoryFigures& memory) {
  return {{"predicted_bytes", memory.predicted_bytes}, {"actual_bytes", memory.actual_bytes}};
}

/// A row of the report: key and value in the order of the CSV's columns.
ordered_json layer_json(const LayerStatistics& layer, const JobConfig& job) {
  ordered_json json;
  json["block"] = layer.block;
  json["module"] = layer.module;
  json["bits"] = layer.bits;
  json["group_size"] = layer.group_size;
  json["samples"] = layer.samples;
  json["tokens"] = layer.tokens;
  json["damp_percent"] = layer.damp_percent;
  json["damping_steps"] = layer.damping_steps;
  json["fallback"] = layer.fallback;
  json["fallback_reason"] = layer.fallback_reason;
  json["loss"] = layer.loss;
  if (job.report.errors) {
    json["squared_weight_error"] = layer.squared_weight_error;
    json["squared_output_error"] = layer.squared_output_error;
  }
  json["relative_weight_error"] = layer.relative_weight_error;
  json["relative_output_error"] = layer.relative_output_error;
  json["variant"] = layer.variant;
  if (job.quantization.refine_sweeps > 0) {
    json["refinement_gain"] = layer.refinement_gain;
    json["raised_rows"] = layer.raised_rows;
  }
  if (job.calibration.held_out > 0) json["held_out_error"] = layer.held_out_error;
  json["seconds"] = layer.seconds;
  return json;
}

std::string report_json(const Report& report) {
  ordered_json json;
  json["version"] = report.version;
  json["started"] = report.started;
  json["attempts"] = report.attempts;
  json["host"]["name"] = host_name();
  json["host"]["cores"] = available_cores();
  json["host"]["memory_bytes"] = host_memory_bytes();
  json["job"] = to_json(report.job);
  json["summary"] = summary_json(report);
  json["held_out"] = held_out_json(report.held_out);
  json["matrix_flops_per_second"] = report.matrix_rate;
  json["memory"]["host"] = memory_json(report.host_memory);
  if (report.device_memory.actual_bytes > 0) json["memory"]["device"] = memory_json(report.device_memory);
  if (!report.predicted.machine.empty()) {
    json["plan"] = {{"machine", report.predicted.machine}, {"phases", ordered_json::object()}};
    for (const auto& [name, seconds] : report.predicted.seconds)
      json["plan"]["phases"][name] = {{"predicted", seconds}, {"actual", report.phase_seconds(name)}};
  }
  json["phases"] = ordered_json::object();
  json["phase_seconds"] = ordered_json::object();
  for (const auto& [name, phase] : report.phases) {
    json["phases"][name] = phase_json(phase);
    json["phase_seconds"][name] = phase.seconds;
  }
  json["ranks"] = ordered_json::array();
  for (const RankTimes& rank : report.rank_times) {
    json["ranks"].push_back({{"seconds", rank.seconds},
                             {"waited_seconds", rank.waited_seconds},
                             {"idle_share", rank.idle_share()}});
  }
  json["layers"] = ordered_json::array();
  for (const LayerStatistics& layer : report.layers) json["layers"].push_back(layer_json(layer, report.job));
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

/// RFC 4180: quoted where a comma, a quote or a line break demands it.
std::string csv_field(const ordered_json& value) {
  if (!value.is_string()) return value.dump();
  const auto text = value.get<std::string>();
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string report_csv(const Report& report) {
  std::string text;
  const ordered_json columns = layer_json({}, report.job);
  for (const auto& [key, value] : columns.items()) text += (text.empty() ? "" : ",") + key;
  text += "\n";
  for (const LayerStatistics& layer : report.layers) {
    const ordered_json row = layer_json(layer, report.job);
    std::string line;
    for (const auto& [key, value] : row.items()) line += (line.empty() ? "" : ",") + csv_field(value);
    text += line + "\n";
  }
  return text;
}

std::string bytes_text(std::int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (value >= 1e9) return fmt::format("{:.2f} GB", value * 1e-9);
  if (value >= 1e6) return fmt::format("{:.1f} MB", value * 1e-6);
  return fmt::format("{:.1f} kB", value * 1e-3);
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(seconds);
  if (whole < 60) return fmt::format("{:.1f} s", seconds);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

std::string recipe_text(const QuantizationSection& q) {
  std::string text = fmt::format("{} {} bit, {}, {}", q.method, q.bits,
                                 q.group_size < 0 ? "one group a row" : fmt::format("group {}", q.group_size),
                                 q.sym ? "symmetric" : "asymmetric");
  if (q.method == "gptq" && q.desc_act) text += ", activation order";
  if (q.method == "gptq" && q.act_group_aware && !q.desc_act) text += ", group-aware order";
  if (q.static_groups) text += ", static groups";
  return text + ", scale search " + q.scale_search;
}

/// "forward 12.1 s, hessian 8.0 s, …": the phases that took longest.
std::string phases_text(const Report& report) {
  std::vector<std::pair<double, std::string>> phases;
  for (const auto& [name, phase] : report.phases) phases.emplace_back(phase.seconds, name);
  std::sort(phases.rbegin(), phases.rend());
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(phases.size(), 5); ++i) {
    text += fmt::format("{}{} {}", i == 0 ? "" : ", ", phases[i].second, duration_text(phases[i].first));
  }
  return text;
}

/// "3 to 12 % of a rank's time"; nothing for one rank.
std::string idle_text(const Report& report) {
  if (report.rank_times.size() < 2) return "";
  const auto [least, most] = std::minmax_element(
      report.rank_times.begin(), report.rank_times.end(),
      [](const RankTimes& a, const RankTimes& b) { return a.idle_share() < b.idle_share(); });
  return fmt::format("{:.0f} to {:.0f} % of a rank's time", 100 * least->idle_share(),
                     100 * most->idle_share());
}

/// "12.1 s (load 0.2 s, export 0.4 s apart)"
std::string quantization_text(const Report& report) {
  std::string text =
      fmt::format("{} (load {}, export {} apart)", duration_text(report.quantization_seconds()),
                  duration_text(report.phase_seconds("load")), duration_text(report.phase_seconds("export")));
  if (report.attempts > 1) text += fmt::format(", attempt {} alone", report.attempts);
  return text;
}

/// "1.20 GB of 1.25 GB predicted"
std::string memory_text(const MemoryFigures& memory) {
  if (memory.actual_bytes == 0) return "";
  std::string text = bytes_text(memory.actual_bytes);
  if (memory.predicted_bytes > 0) text += fmt::format(" of {} predicted", bytes_text(memory.predicted_bytes));
  return text + " on the fullest rank";
}

std::string size_text(const Report& report) {
  std::string text =
      fmt::format("{} -> {}", bytes_text(report.source_bytes), bytes_text(report.output_bytes));
  if (report.output_bytes > 0) {
    text += fmt::format(" ({:.2f} times smaller)",
                        static_cast<double>(report.source_bytes) / static_cast<double>(report.output_bytes));
  }
  return text;
}

std::string error_text(const Report& report) {
  if (report.layers.empty()) return "no layer was quantized";
  const auto worst = std::max_element(
      report.layers.begin(), report.layers.end(),
      [](const auto& a, const auto& b) { return a.relative_output_error < b.relative_output_error; });
  return fmt::format("{:.3f} % of the output's energy on average, most in {} ({:.3f} %)",
                     100 * mean_output_error(report), worst->module, 100 * worst->relative_output_error);
}

}  // namespace

bool HeldOutFigures::is_finite() const {
  return std::isfinite(relative_hidden_error) &&
         (predictions == 0 || (std::isfinite(perplexity) && std::isfinite(source_perplexity)));
}

std::string held_out_text(const HeldOutFigures& figures) {
  const std::string error =
      fmt::format("error of the last hidden states {:.2f} %", 100 * figures.relative_hidden_error);
  if (figures.predictions == 0) return "no sample of two tokens to predict, " + error;
  return fmt::format("perplexity {:.2f}, source {:.2f}, {}", figures.perplexity, figures.source_perplexity,
                     error);
}

void write_report(const Report& report, const std::filesystem::path& directory) {
  write_file(directory / "report.json", report_json(report));
  write_file(directory / "report.csv", report_csv(report));
}

std::string summary_text(const Report& report) {
  std::string text;
  const auto line = [&](std::string_view label, const std::string& value) {
    if (!value.empty()) text += fmt::format("  {:<14}{}\n", label, value);
  };
  line("model", report.job.model.path);
  line("recipe", recipe_text(report.job.quantization));
  line("calibration", fmt::format("{} samples, {} tokens", report.samples, report.tokens));
  line("layers",
       fmt::format("{} quantized, {} fell back to round-to-nearest", report.layers.size(), report.fallbacks));
  line("error", error_text(report));
  if (report.held_out)
    line("held out",
         fmt::format("{} samples: {}", report.held_out->samples, held_out_text(*report.held_out)));
  line("size", size_text(report));
  line("time", fmt::format("{} on {} rank(s) x {} thread(s), {} arithmetic", duration_text(report.seconds),
                           report.ranks, report.threads, report.compute_dtype));
  line("quantization", quantization_text(report));
  line("phases", phases_text(report));
  line("waiting", idle_text(report));
  line("peak memory", bytes_text(report.peak_memory_bytes) + " over all ranks");
  line("host peak", memory_text(report.host_memory));
  line("device peak", memory_text(report.device_memory));
  line("output", report.output);
  line("report", (std::filesystem::path(report.output) / "report.json").string());
  return text;
}

}  // namespace gptq
