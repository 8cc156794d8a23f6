// The job as one page: command line → job file → plan | quantize | eval | inspect | verify → exit code.

#include <cstdio>
#include <exception>
#include <fstream>

#include "base/log.h"
#include "base/process.h"
#include "base/stop_request.h"
#include "comm/communicator.h"
#include "config/command_line.h"
#include "config/requirements.h"
#include "config/yaml_reader.h"
#include "io/report.h"
#include "io/verify.h"
#include "pipeline/evaluate.h"
#include "pipeline/measure_machine.h"
#include "pipeline/plan.h"
#include "pipeline/plan_command.h"
#include "pipeline/quantize_job.h"

namespace {

using namespace gptq;
using Command = CommandLine::Command;

JobConfig read_job_everywhere(const CommandLine& line, Communicator& comm) {
  JobConfig job;
  const auto read = [&] {
    job = read_job(line.job, overrides_of(line));
    if (line.command == Command::eval) {
      require_for_eval(job);
    } else {
      // What a plan needs of the calibration file, --samples says.
      if (!line.plan_samples.empty()) job.calibration.path = line.plan_samples;
      require_for_quantize(job);
    }
  };
  run_on_root(comm, read);
  if (!comm.is_root()) read();
  return job;
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) throw IoError("cannot write {}: check that its directory exists and has room", path);
}

void quantize(const JobConfig& job, const CommandLine& line, Communicator& comm) {
  catch_stop_signals();
  const Report report = run_quantize(job, {line.fresh, line.machine, line.trace}, comm);
  if (!comm.is_root()) return;
  if (report.already_finished) {
    log::info("{} already holds this job's finished output; nothing to do (--overwrite does it again)",
              report.output);
  } else {
    std::printf("%s", summary_text(report).c_str());
  }
}

void evaluate(const CommandLine& line, const JobConfig& job, Communicator& comm) {
  const std::vector<Evaluation> results = run_evaluate(job, comm);
  if (!comm.is_root()) return;
  for (const Evaluation& result : results) {
    std::printf("%s  %s  perplexity %.4f\n", result.model.c_str(), result.data.c_str(), result.perplexity);
  }
  if (!line.json.empty()) write_text(line.json, to_json(results));
}

/// The plan on a described machine.
void forecast(const CommandLine& line, const JobConfig& job) {
  const ForecastOptions options{line.machine, line.plan_ranks, line.plan_ranks_per_node, line.plan_grid,
                                line.plan_samples};
  if (!line.plan_scaling.empty()) {
    const std::string csv = scaling_csv(forecast_scaling(job, options, line.plan_scaling));
    std::printf("%s", csv.c_str());
    if (!line.plan_csv.empty()) write_text(line.plan_csv, csv);
    return;
  }
  const Forecast result = forecast_job(job, options);
  std::printf("%s%s", result.plan.text(-1, result.disk_speed).c_str(), forecast_text(result).c_str());
  if (!line.json.empty()) write_text(line.json, to_json(result));
}

ExitCode verify(const std::string& path) {
  const VerifyResult result = verify_output(path);
  for (const std::string& note : result.notes) std::printf("note: %s\n", note.c_str());
  for (const std::string& failure : result.failures) std::printf("FAILED: %s\n", failure.c_str());
  std::printf("%s: %lld files, %lld quantized modules, %zu failure(s)\n", path.c_str(),
              static_cast<long long>(result.files), static_cast<long long>(result.quantized_modules),
              result.failures.size());
  return result.failures.empty() ? ExitCode::ok : ExitCode::verify_failed;
}

ExitCode run(const CommandLine& line, Communicator& comm) {
  if (line.command == Command::inspect || line.command == Command::verify) {
    log::start(comm.rank(), comm.size(), "info");
    ExitCode code = ExitCode::ok;
    run_on_root(comm, [&] {
      if (line.command == Command::verify) {
        code = verify(line.path);
      } else {
        std::printf("%s", inspect_path(line.path).c_str());
      }
    });
    comm.broadcast(&code, sizeof(code), 0);
    return code;
  }
  const JobConfig job = read_job_everywhere(line, comm);
  log::start(comm.rank(), comm.size(), job.log.level);
  comm.set_timeout(job.comm.timeout);
  if (line.command == Command::plan && !line.plan_measure.empty()) {
    const std::string machine = to_yaml(measure_machine(job, comm));
    run_on_root(comm, [&] { write_text(line.plan_measure, machine); });
  } else if (line.command == Command::plan && !line.machine.empty()) {
    run_on_root(comm, [&] { forecast(line, job); });
  } else if (line.command == Command::plan) {
    PlannedMachines machines;
    machines.ranks = line.plan_ranks > 0 ? line.plan_ranks : comm.size();
    machines.ranks_per_node = line.plan_ranks_per_node;
    machines.node_memory_bytes = static_cast<std::int64_t>(line.plan_node_memory * 1e9);
    machines.disk_speed = line.plan_disk_speed * 1e9;
    machines.ranks_per_device = line.plan_ranks_per_device;
    machines.device_memory_bytes =
        line.plan_device_memory < 0 ? -1 : static_cast<std::int64_t>(line.plan_device_memory * 1e9);
    machines.device_rate = line.plan_device_rate * 1e12;
    run_on_root(comm, [&] {
      const PlannedJob planned = run_plan(job, machines);
      std::printf("%s", planned.plan.text(planned.flops_per_rank, planned.disk_speed).c_str());
      if (!line.json.empty()) write_text(line.json, to_json(planned));
    });
  } else if (line.command == Command::eval) {
    evaluate(line, job, comm);
  } else {
    quantize(job, line, comm);
  }
  return ExitCode::ok;
}

/// Ends the job with a message where MPI cannot give one.
std::unique_ptr<Communicator> world_of(MpiRuntime& mpi) {
  try {
    return mpi.world();
  } catch (const Error& error) {
    std::fprintf(stderr, "gptq-hpc: %s\n", error.what());
    mpi.abort(static_cast<int>(error.exit_code()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  MpiRuntime mpi(&argc, &argv);
  const std::unique_ptr<Communicator> comm = world_of(mpi);
  CommandLine line;
  int exit_code = 0;
  if (!parse_command_line(argc, argv, comm->is_root(), line, exit_code)) return exit_code;
  try {
    exit_code = static_cast<int>(run(line, *comm));
    comm->barrier();  // MPI_Finalize has no time limit, this has
    return exit_code;
  } catch (const TeamError& error) {
    // The rank of the team that failed speaks, and ends this one too.
    return static_cast<int>(error.exit_code());
  } catch (const CollectiveError& error) {
    // Every rank knows; one speaks, all return.
    if (comm->is_root()) std::fprintf(stderr, "gptq-hpc: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const Error& error) {
    std::fprintf(stderr, "gptq-hpc: rank %d: %s\n", comm->rank(), error.what());
    exit_code = static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gptq-hpc: rank %d: unexpected: %s\n", comm->rank(), error.what());
    exit_code = static_cast<int>(ExitCode::internal);
  }
  if (comm->size() == 1) return exit_code;
  mpi.abort(exit_code);
}
