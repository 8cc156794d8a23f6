#include "pipeline/machine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/error.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

/// Where descriptions are looked for by name.
std::vector<fs::path> machine_folders() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  const fs::path below = fs::path("configs") / "machines";
  // A bundle has them beside bin/, a clone above build/NAME/.
  return {below, program / below, program.parent_path() / below, program.parent_path().parent_path() / below,
          program.parent_path() / "share" / "gptq-hpc" / "machines"};
}

}  // namespace

const std::vector<KernelName>& kernel_names() {
  static const std::vector<KernelName> names{
      {"linear.bf16", "FLOP", "a linear of a chunk, 2·tokens·in·out"},
      {"linear.f32", "FLOP", "the same in single precision"},
      {"attention.bf16", "FLOP", "4·pairs of tokens·heads·head_dim"},
      {"attention.f32", "FLOP", "the same in single precision"},
      {"hessian.bf16", "FLOP", "exact XᵀX of a chunk, n² a token"},
      {"hessian.f32", "FLOP", "the same in single precision"},
      {"cross.bf16", "FLOP", "exact DᵀX of a chunk, 2·m·n a token"},
      {"cross.f32", "FLOP", "the same in single precision"},
      {"rows", "bytes", "norms, rotary, activations, maxima: read and written"},
      {"factor", "FLOP", "Cholesky in double precision, n³/3"},
      {"expand", "bytes", "integer sums to a matrix, 4 bytes an element of the result"},
      {"solve", "FLOP", "rounding rows with the search for scales, 2·m·n²"},
      {"correct", "FLOP", "correction of rows, 4·m·n²"},
      {"refine", "FLOP", "a sweep of the refinement, 2·m·n²"},
      {"prepare", "bytes", "weights made ready to multiply, of the compute type"},
      {"loss", "FLOP", "a head and its losses, 2·tokens·vocabulary·hidden"},
      {"decode", "bytes", "weights on their way from the file, as stored"},
      {"pack", "bytes", "a block packed and hashed for the output, as written"},
  };
  return names;
}

std::string Machine::provenance() const {
  if (measured)
    return fmt::format("measured by {} {} on {}", measured->by, measured->version, measured->date);
  return "NOT measured: " + source;
}

double Machine::seconds(const std::string& kernel, double work) const {
  const auto found = kernels.find(kernel);
  if (found == kernels.end()) {
    throw UsageError(
        "the machine description {} has no rate of '{}', which this job needs; add it under kernels: "
        "(configs/machines/ has examples), or measure one with `gptq-hpc plan JOB.yaml --measure FILE`",
        name, kernel);
  }
  if (work <= 0) return 0;
  const std::vector<RatePoint>& points = found->second;
  const auto above = std::find_if(points.begin(), points.end(),
                                  [work](const RatePoint& point) { return point.work >= work; });
  if (above == points.end()) return work / points.back().rate;
  if (above == points.begin()) return work / above->rate;
  const RatePoint& low = *(above - 1);
  const double part = std::log(work / low.work) / std::log(above->work / low.work);
  return work / (low.rate * std::pow(above->rate / low.rate, part));
}

double Machine::share_together(int ranks) const {
  const auto last = static_cast<int>(together.size());
  return together[static_cast<std::size_t>(std::clamp(ranks, 1, last) - 1)];
}

std::string find_machine(const std::string& file_or_name) {
  std::error_code ignored;
  if (fs::is_regular_file(file_or_name, ignored)) return file_or_name;
  std::vector<std::string> known;
  for (const fs::path& folder : machine_folders()) {
    const fs::path file = folder / (file_or_name + ".yaml");
    if (fs::is_regular_file(file, ignored)) return file.string();
    for (const auto& entry : fs::directory_iterator(folder, ignored))
      if (entry.path().extension() == ".yaml") known.push_back(entry.path().stem().string());
  }
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  throw UsageError(
      "--machine: there is no file '{}', and no description of that name; known: {}. `gptq-hpc plan JOB.yaml "
      "--measure FILE` writes one of this machine",
      file_or_name,
      known.empty() ? "none (configs/machines was not found)" : fmt::format("{}", fmt::join(known, ", ")));
}

std::optional<double> parse_quantity(const std::string& text, const std::string& dimension) {
  struct Unit {
    const char* name;
    double factor;
  };
  static const std::vector<Unit> bytes{{"B", 1},          {"kB", 1e3},     {"MB", 1e6},
                                       {"GB", 1e9},       {"TB", 1e12},    {"KiB", 1024},
                                       {"MiB", 1048576.}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  static const std::vector<Unit> seconds{{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}};
  std::size_t used = 0;
  double number = 0;
  try {
    number = std::stod(text, &used);
  } catch (const std::exception&) {
    return std::nullopt;
  }
  if (!std::isfinite(number)) return std::nullopt;
  std::string unit = text.substr(std::min(text.size(), text.find_first_not_of(' ', used)));
  if (dimension == "bytes/s") {
    if (!unit.ends_with("/s")) return std::nullopt;
    unit.resize(unit.size() - 2);
  }
  for (const Unit& known : dimension == "s" ? seconds : bytes)
    if (unit == known.name) return number * known.factor;
  return std::nullopt;
}

}  // namespace gptq
