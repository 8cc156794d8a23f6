// Times every kernel of kernels/kernels.h on random data and compares each with what the machine does best.
//
//   kernel_bench --quick --json kernels.json
//   kernel_bench --backend cuda --only hessian,solve
//
// Exit codes: 0, 1 where a kernel gave wrong or no results, 2 for a bad command line, 7 without its device.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "tools/bench/kernel_bench_report.h"

namespace {

using namespace gptq;
using namespace gptq::bench;

struct CommandLine {
  std::string backend = "auto", dtype = "auto", shapes = "auto";
  std::vector<std::string> only;
  std::string json;
  bool quick = false, rehearse = false;
  double seconds = 0;
  int threads = 0;
};

void declare(CLI::App& app, CommandLine& line) {
  app.add_option("--backend", line.backend)
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--dtype", line.dtype, "Compute type; auto: bf16 where it is fast")
      ->check(CLI::IsMember({"auto", "bf16", "fp32"}))
      ->capture_default_str();
  app.add_option("--shapes", line.shapes, "auto: llama-3-8b on a GPU, smollm2 on a CPU")
      ->check(CLI::IsMember({"auto", "llama-3-8b", "smollm2", "tiny"}))
      ->capture_default_str();
  app.add_option("--only", line.only, "These operations, as the table names them")->delimiter(',');
  app.add_flag("--quick", line.quick, "One chunk size and the model's own widths");
  app.add_flag("--rehearse", line.rehearse, "Every case at tiny sizes, for its checks: figures mean nothing");
  app.add_option("--seconds", line.seconds,
                 "Spend about so long; what does not fit is skipped and said to be. Default: 300; "
                 "with --quick 40 on a CPU, 90 on a GPU")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", line.threads, "Of the CPU; 0: all cores")->capture_default_str();
  app.add_option("--json", line.json, "Also write this file");
}

DType dtype_of(const CommandLine& line, const Backend& backend) {
  if (line.dtype == "auto") return backend.fast_bf16() ? DType::bf16 : DType::f32;
  return line.dtype == "bf16" ? DType::bf16 : DType::f32;
}

Shapes shapes_of(const CommandLine& line, const Backend& backend) {
  if (line.rehearse) return find_shapes("tiny", true);
  const bool cpu = backend.shares_host_memory();
  return find_shapes(line.shapes != "auto" ? line.shapes : cpu ? "smollm2" : "llama-3-8b", line.quick);
}

std::vector<Case> cases_of(const Bench& bench, const std::vector<std::string>& only) {
  std::vector<Case> cases = hessian_cases(bench);
  for (auto* const more : {&solve_cases, &quality_cases, &weight_cases, &forward_cases, &copy_cases})
    for (Case& next : (*more)(bench)) cases.push_back(std::move(next));
  std::set<std::string> known{"limits"};
  for (const Case& next : cases) known.insert(next.operation);
  for (const std::string& name : only)
    if (!known.contains(name)) throw UsageError("--only {}: here are {}", name, fmt::join(known, ", "));
  if (!only.empty())
    std::erase_if(cases, [&](const Case& next) {
      return std::find(only.begin(), only.end(), next.operation) == only.end();
    });
  return cases;
}

double seconds_of(const CommandLine& line, const Backend& backend) {
  if (line.seconds > 0) return line.seconds;
  if (!line.quick) return 300;
  return backend.shares_host_memory() ? 40 : 90;
}

/// Half of the time goes into making data and checking results.
Effort effort_of(const CommandLine& line, double seconds, std::size_t cases) {
  Effort effort;
  effort.case_seconds = std::clamp(0.5 * seconds / static_cast<double>(cases + 5), 0.05, 3.0);
  if (line.quick) effort.most_samples = 7;
  if (line.rehearse) effort = {0, 0, 2, 2, 1};
  return effort;
}

std::string text_of(int argc, char** argv) {
  std::string text = "kernel_bench";
  for (int i = 1; i < argc; ++i) text += fmt::format(" {}", argv[i]);
  return text;
}

/// Returns the exit code.
int run(const CommandLine& line, const std::string& command) {
  const Stopwatch watch;
  BackendOptions options;
  options.name = line.backend;
  options.threads = line.threads;
  const std::unique_ptr<Backend> backend = make_backend(options);
  const Bench bench{*backend, dtype_of(line, *backend), shapes_of(line, *backend)};
  const std::vector<Case> cases = cases_of(bench, line.only);
  const double seconds = seconds_of(line, *backend);
  const Effort effort = effort_of(line, seconds, cases.size());

  if (line.rehearse) std::puts("REHEARSAL: tiny sizes, the figures mean nothing");
  const Limits limits = measure_limits(bench, effort);
  print_head(bench, limits);
  std::vector<Result> results;
  for (const Case& next : cases) {
    const bool is_first = results.empty() || results.back().what->operation != next.operation;
    const bool late = !line.rehearse && watch.seconds() > seconds;
    results.push_back(late ? skipped(next) : run_case(bench, next, limits, effort));
    print_result(results.back(), limits, is_first);
  }
  if (!line.json.empty()) write_file(line.json, to_json(bench, limits, results, command, watch.seconds()));
  const auto failed = std::count_if(results.begin(), results.end(), [](const Result& result) {
    return result.state == Result::State::failed;
  });
  std::printf("\n%zu cases in %.0f s, %td failed\n", results.size(), watch.seconds(), failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  gptq::keep_freed_memory();
  CLI::App app("Times every kernel on random data, as a share of what the machine does best");
  CommandLine line;
  declare(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(gptq::ExitCode::bad_usage);
  }
  try {
    return run(line, text_of(argc, argv));
  } catch (const gptq::Error& error) {
    std::fprintf(stderr, "kernel_bench: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernel_bench: %s\n", error.what());
    return 1;
  }
}
