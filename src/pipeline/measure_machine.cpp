#include "pipeline/measure_machine.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <limits>

#include "backend/device_matrix.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "config/version.h"
#include "pipeline/job_context.h"
#include "pipeline/plan.h"
#include "pipeline/plan_command.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

double fastest_of(int runs, const std::function<void()>& run) {
  double fastest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    Stopwatch watch;
    run();
    fastest = std::min(fastest, watch.seconds());
  }
  return fastest;
}

/// The root's speed in a block's kernels while so many ranks compute, over that alone. forward: seconds of
/// these kernels.
std::vector<double> measure_together(Communicator& comm, const std::function<double()>& forward) {
  std::vector<double> parts;
  double alone = 0;
  for (int computing = 1; computing <= comm.size(); ++computing) {
    comm.barrier();
    const double seconds = comm.rank() < computing ? forward() : 0;
    comm.barrier();
    if (computing == 1) alone = seconds;
    parts.push_back(comm.is_root() ? std::min(1.0, alone / seconds) : 1.0);
  }
  parts.front() = 1;
  comm.broadcast(parts.data(), parts.size() * sizeof(double), 0);
  return parts;
}

/// Messages through host memory and MPI.
LinkRates measure_links(Communicator& comm) {
  constexpr std::size_t large = std::size_t{64} << 20;
  std::vector<std::int64_t> values(large / sizeof(std::int64_t), 1);
  LinkRates link;
  char byte = 0;
  comm.barrier();
  link.latency = fastest_of(50,
                            [&] {
                              comm.broadcast(&byte, 1, 0);
                              comm.barrier();
                            }) /
                 3;
  comm.broadcast(values.data(), large, 0);  // buffers are made at the first use
  comm.barrier();
  const double broadcast = fastest_of(3, [&] {
    comm.broadcast(values.data(), large, 0);
    comm.barrier();
  });
  link.bandwidth = static_cast<double>(large) / broadcast;
  link.shared = link.bandwidth * comm.size();
  const double ranks = comm.size();
  const double reduce = fastest_of(3, [&] {
    comm.all_reduce_sum(values);
    std::fill(values.begin(), values.end(), 1);
    comm.barrier();
  });
  link.reduce = 2 * (ranks - 1) / ranks * static_cast<double>(large) / reduce;
  return link;
}

FileRates measure_files(const fs::path& folder) {
  constexpr std::size_t piece = std::size_t{16} << 20;
  constexpr std::size_t pieces = 16;
  const fs::path path = folder / fmt::format(".gptq-hpc-measure-{}", host_name());
  std::vector<std::byte> data(piece, std::byte{5});
  FileRates rates;
  const auto rate = [](double seconds) { return static_cast<double>(piece * pieces) / seconds; };
  const auto read = [&] {
    Stopwatch watch;
    const File file = File::open(path);
    for (std::size_t i = 0; i < pieces; ++i) file.read_at(data.data(), piece, i * piece);
    return rate(watch.seconds());
  };
  try {
    Stopwatch opening;
    File file = File::create(path);
    rates.open = opening.seconds();
    Stopwatch watch;
    for (std::size_t i = 0; i < pieces; ++i) file.write_at(data.data(), piece, i * piece);
    file.sync();
    rates.write_node = rates.write_all = rate(watch.seconds());
    file.drop_from_cache();
    file.close();
    rates.node = rates.all = read();
    rates.cached = read();
  } catch (...) {
    std::error_code ignored;
    fs::remove(path, ignored);
    throw;
  }
  fs::remove(path);
  return rates;
}

MeasuredShapes shapes_of(const JobConfig& job, const ModelShape& model, const Backend& backend, int ranks) {
  const std::vector<std::int64_t> lengths = lengths_of_samples(job, model.config().vocab_size);
  MeasuredShapes shapes;
  shapes.row_shares = ranks;
  shapes.chunk_tokens = chunk_tokens_of(job, backend);
  if (!lengths.empty()) shapes.sample_tokens = *std::max_element(lengths.begin(), lengths.end());
  shapes.chunk_tokens = std::max(shapes.chunk_tokens, shapes.sample_tokens);
  return shapes;
}

/// Where the output will lie: its nearest folder that is there.
fs::path folder_of_output(const JobConfig& job) {
  fs::path folder = fs::absolute(job.output.path).parent_path();
  while (!fs::is_directory(folder)) folder = folder.parent_path();
  return folder;
}

}  // namespace

Machine measure_machine(const JobConfig& job, Communicator& comm) {
  const double startup = seconds_since_process_start();
  if (comm.size() == 1) {
    throw UsageError(
        "plan --measure: one rank has no links to measure; run it as the job will run, as in `mpirun -n 2 "
        "gptq-hpc plan JOB.yaml --measure FILE`");
  }
  if (ranks_on_this_node(comm) != comm.size()) {
    throw CollectiveError(ExitCode::bad_usage,
                          "plan --measure: measures one node; start it on one and add links.fabric and the "
                          "files' rates of all nodes by hand");
  }
  const ComputeContext compute = make_compute(job, comm);
  Backend& backend = *compute.backend;
  Machine machine;
  machine.startup = startup;
  machine.node.ranks = comm.size();
  machine.node.cores = std::max(available_cores(), comm.size() * backend.threads());
  machine.node.memory = host_memory_bytes();
  if (!backend.shares_host_memory()) {
    machine.device.kind = backend.kind();
    machine.device.memory = backend.memory_bytes();
    machine.device.driver =
        backend.memory_bytes() - backend.free_memory_bytes() - backend.peak_memory_bytes();
  }
  // What is wrong with them the root alone says.
  run_on_root(comm, [&] { lengths_of_samples(job, shape_of_source(job).config().vocab_size); });
  const ModelShape model = shape_of_source(job);
  const MeasuredShapes shapes = shapes_of(job, model, backend, comm.size());
  run_on_root(comm, [&] {
    log::info("measuring kernels, then {} ranks together, links and files", comm.size());
    machine.kernels = measure_kernels(job, model, shapes, backend, compute.dtype);
    machine.files = measure_files(folder_of_output(job));
  });
  machine.together =
      measure_together(comm, [&] { return measure_forward(job, model, shapes, backend, compute.dtype); });
  machine.link = measure_links(comm);
  machine.name = fmt::format("{}-{}-ranks", backend.name(), comm.size());
  machine.measured = {"plan --measure", version(), utc_now()};
  return machine;
}

}  // namespace gptq
