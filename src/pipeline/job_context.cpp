#include "pipeline/job_context.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/process.h"
#include "base/sha256.h"
#include "config/yaml_reader.h"
#include "model/safetensors_reader.h"

namespace gptq {
namespace {

/// Raised whenever a change of the program alters the bytes it writes for the same job.
constexpr const char* kArithmeticVersion = "1";

/// Host and allowed cores of a rank: ranks with the same place share those cores.
struct Place {
  char host[256] = {};
  cpu_set_t cores;
};

int fair_threads(Communicator& comm) {
  Place mine;
  std::memset(&mine.cores, 0, sizeof(mine.cores));
  std::strncpy(mine.host, host_name().c_str(), sizeof(mine.host) - 1);
  sched_getaffinity(0, sizeof(mine.cores), &mine.cores);
  const auto places = comm.all_gather(std::as_bytes(std::span(&mine, 1)));
  const auto sharers = std::count_if(places.begin(), places.end(), [&](const std::vector<std::byte>& other) {
    return std::memcmp(other.data(), &mine, sizeof(mine)) == 0;
  });
  return std::max(1, available_cores() / static_cast<int>(sharers));
}

int threads_of_rank(const ComputeSection& section, Communicator& comm) {
  const int fair = fair_threads(comm);
  if (section.threads > 0) return section.threads;
  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    const int wanted = std::atoi(text);
    if (wanted > 0) return wanted;
  }
  return fair;
}

}  // namespace

ComputeContext make_compute(const ComputeSection& section, Communicator& comm) {
  ComputeContext context;
  context.backend = make_backend({section.backend, threads_of_rank(section, comm)});
  std::int64_t use_bf16 =
      section.dtype == "bf16" || (section.dtype == "auto" && context.backend->fast_bf16());
  comm.broadcast(&use_bf16, sizeof(use_bf16), 0);
  context.dtype = use_bf16 != 0 ? DType::bf16 : DType::f32;
  return context;
}

int ranks_on_this_node(Communicator& comm) {
  const std::string mine = host_name();
  int ranks = 0;
  for (const auto& other : comm.all_gather(std::as_bytes(std::span(mine)))) {
    const std::string theirs(reinterpret_cast<const char*>(other.data()), other.size());
    ranks += theirs == mine ? 1 : 0;
  }
  return ranks;
}

std::string job_fingerprint(const JobConfig& job, const ModelWeights& model,
                            const std::string& calibration_sha256, DType compute) {
  Sha256 hash;
  const auto add = [&hash](const std::string& key, const std::string& value) {
    const std::string line = key + "=" + value + "\n";
    hash.update(line.data(), line.size());
  };
  add("arithmetic", kArithmeticVersion);
  add("compute dtype", std::string(name_of(compute)));
  add("calibration", calibration_sha256);
  for (const auto& [key, value] : result_keys(job)) {
    // Paths say where the inputs lie today; what is in them is hashed below and above. The evaluation changes
    // nothing.
    const bool identity_elsewhere =
        key == "model.path" || key == "calibration.path" || key.starts_with("eval.");
    if (!identity_elsewhere) add(key, value);
  }
  for (const auto& [name, info] : model.files().tensors()) {
    std::string shape;
    for (std::int64_t extent : info.shape) shape += fmt::format("{},", extent);
    add(name, fmt::format("{} {} {} {} {}", name_of(info.dtype), shape, info.file, info.offset, info.bytes));
  }
  return hash.hex();
}

}  // namespace gptq
