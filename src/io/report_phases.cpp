#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "io/report.h"

namespace gptq {
namespace {

/// In the order of the work.
constexpr std::array kOrder{"measure", "load",   "resume", "embed",  "forward",    "hessian",
                            "reduce",  "factor", "solve",  "gather", "checkpoint", "export"};

/// "3.77 T", "42 G" and the like: three digits and a decimal prefix, to which the unit is added.
std::string with_prefix(double value) {
  constexpr std::array<std::pair<double, const char*>, 4> prefixes{
      {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}}};
  for (const auto& [scale, prefix] : prefixes) {
    if (value >= 0.9995 * scale) return fmt::format("{:.3g} {}", value / scale, prefix);
  }
  return fmt::format("{:.3g} ", value);
}

std::string row(const std::string& name, const std::string& seconds, const std::string& share,
                const std::string& work, const std::string& rate, const std::string& of_limit) {
  std::string line =
      fmt::format("{:<11}{:>11}{:>7}{:>13}{:>15}{:>16}", name, seconds, share, work, rate, of_limit);
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::string row_of(const std::string& name, const PhaseFigures& phase, double total) {
  std::string work, rate, of_limit;
  if (phase.flops > 0) {
    work = with_prefix(phase.flops) + "FLOP";
    rate = with_prefix(phase.flops_per_second()) + "FLOP/s";
    if (phase.limit > 0) of_limit = fmt::format("{:.0f} %", 100 * phase.share_of_limit());
  } else if (phase.bytes > 0) {
    work = with_prefix(phase.bytes) + "B";
    rate = with_prefix(phase.bytes_per_second()) + "B/s";
  }
  const double share = total > 0 ? 100 * phase.seconds / total : 0;
  return row(name, fmt::format("{:.2f} s", phase.seconds), fmt::format("{:.0f} %", share), work, rate,
             of_limit);
}

}  // namespace

double Report::phase_seconds(const std::string& name) const {
  const auto found = phases.find(name);
  return found == phases.end() ? 0 : found->second.seconds;
}

double Report::quantization_seconds() const {
  return std::max(
      0.0, attempt_seconds - phase_seconds("load") - phase_seconds("export") - phase_seconds("measure"));
}

std::vector<std::string> phase_table(const Report& report) {
  std::vector<std::string> lines{row("phase", "time", "share", "work", "rate", "of matrix rate")};
  double counted = 0;
  for (const auto& [name, phase] : report.phases) {
    counted += phase.seconds;
    if (std::find(kOrder.begin(), kOrder.end(), name) == kOrder.end())
      lines.push_back(row_of(name, phase, report.attempt_seconds));
  }
  for (const char* name : kOrder) {
    const auto found = report.phases.find(name);
    if (found != report.phases.end()) lines.push_back(row_of(name, found->second, report.attempt_seconds));
  }
  PhaseFigures rest;
  rest.seconds = std::max(0.0, report.attempt_seconds - counted);
  lines.push_back(row_of("other", rest, report.attempt_seconds));
  return lines;
}

std::vector<std::string> comparison_table(const Report& report) {
  // What is predicted is the whole job; an attempt that resumed did a part of it.
  if (report.predicted.machine.empty() || report.attempts > 1) return {};
  const auto line = [](const std::string& phase, double predicted, double actual) {
    const std::string off =
        predicted > 0 && actual > 0 ? fmt::format("{:+.0f} %", 100 * (predicted / actual - 1)) : "";
    return fmt::format("{:<11}{:>11.2f} s{:>11.2f} s{:>9}", phase, predicted, actual, off);
  };
  std::vector<std::string> lines{
      fmt::format("{:<11}{:>13}{:>13}{:>9}", "phase", "predicted", "actual", "off by")};
  double predicted_in_all = 0;
  std::map<std::string, double> predicted = report.predicted.seconds;
  predicted.erase("start");
  for (const auto& [phase, seconds] : predicted) predicted_in_all += seconds;
  for (const auto& [phase, figures] : report.phases) predicted.emplace(phase, 0);
  for (const auto& [phase, seconds] : predicted)
    lines.push_back(line(phase, seconds, report.phase_seconds(phase)));
  lines.push_back(line("all", predicted_in_all, report.attempt_seconds));
  return lines;
}

}  // namespace gptq
