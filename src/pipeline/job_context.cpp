#include "pipeline/job_context.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "base/process.h"
#include "base/sha256.h"
#include "config/yaml_reader.h"
#include "model/weights_identity.h"

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

std::map<std::string, std::string> job_identity(const JobConfig& job, const ModelWeights& model,
                                                const std::string& calibration_sha256,
                                                const ComputeContext& compute, Communicator& comm) {
  std::map<std::string, std::string> identity;
  for (const auto& [key, value] : result_keys(job)) {
    // Paths say where the inputs lie today; what is in them is hashed below. `auto` may mean today what was
    // named yesterday: what it came to counts. The evaluation changes nothing.
    const bool identity_elsewhere = key == "model.path" || key == "calibration.path" ||
                                    key == "compute.backend" || key == "compute.dtype" ||
                                    key.starts_with("eval.");
    if (!identity_elsewhere) identity[key] = value;
  }
  identity["arithmetic version"] = kArithmeticVersion;
  identity["arithmetic type"] = std::string(name_of(compute.dtype));
  identity["arithmetic backend"] = compute.backend->name();
  identity["calibration sha256"] = calibration_sha256;
  std::array<char, 64> digits{};
  run_on_root(comm, [&] {
    const std::string hash = weights_sha256(model.files());
    std::copy(hash.begin(), hash.end(), digits.begin());
  });
  comm.broadcast(digits.data(), digits.size(), 0);
  identity["weights sha256"] = std::string(digits.begin(), digits.end());
  return identity;
}

std::string fingerprint_of(const std::map<std::string, std::string>& identity) {
  Sha256 hash;
  for (const auto& [key, value] : identity) {
    const std::string line = key + "=" + value + "\n";
    hash.update(line.data(), line.size());
  }
  return hash.hex();
}

}  // namespace gptq
