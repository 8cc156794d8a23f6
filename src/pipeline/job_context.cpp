#include "pipeline/job_context.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "base/process.h"
#include "base/sha256.h"
#include "config/yaml_reader.h"
#include "model/weights_identity.h"

namespace gptq {
namespace {

/// Raised whenever a change of the program alters the bytes it writes for the same job.
constexpr const char* kArithmeticVersion = "2";

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

ComputeContext make_local_compute(const ComputeSection& section, int threads) {
  ComputeContext context;
  context.backend = make_backend({section.backend, threads, 0});
  const bool bf16 = section.dtype == "bf16" || (section.dtype == "auto" && context.backend->fast_bf16());
  context.dtype = bf16 ? DType::bf16 : DType::f32;
  return context;
}

namespace {

/// Position of this rank among those of its node.
int number_on_node(Communicator& comm) {
  const std::string mine = host_name();
  const auto everyone = comm.all_gather(std::as_bytes(std::span(mine)));
  const auto own = static_cast<std::size_t>(comm.rank());
  return static_cast<int>(std::count(everyone.begin(), everyone.begin() + comm.rank(), everyone[own]));
}

void require_one_kind(const Backend& backend, Communicator& comm) {
  const std::string mine = backend.kind();
  const auto everyone = comm.all_gather(std::as_bytes(std::span(mine)));
  for (std::size_t rank = 0; rank < everyone.size(); ++rank) {
    if (everyone[rank] == everyone[0]) continue;
    const auto text = [&](std::size_t i) {
      return std::string(reinterpret_cast<const char*>(everyone[i].data()), everyone[i].size());
    };
    throw CollectiveError(
        ExitCode::bad_usage,
        fmt::format(
            "rank 0 computes on {} and rank {} on {}: their results would differ. Set compute.backend, "
            "or run on nodes of one kind.",
            text(0), rank, text(rank)));
  }
}

std::unique_ptr<DeviceCollectives> make_nccl(Backend& backend, Communicator& comm, double timeout) {
  return make_nccl_collectives(comm, {backend.device_number(), backend.native_queue(), timeout});
}

/// Without NCCL.
std::unique_ptr<DeviceCollectives> make_mpi_collectives(Backend& backend, Communicator& comm) {
  if (backend.shares_host_memory()) return make_host_collectives(comm);
  return make_staged_collectives(
      comm,
      {[&backend](void* host, const void* device, std::size_t bytes) {
         backend.download(host, device, bytes);
       },
       [&backend](void* device, const void* host, std::size_t bytes) { backend.upload(device, host, bytes); },
       [&backend](std::size_t bytes) { return backend.allocate_host(bytes); }});
}

void make_collectives(ComputeContext& context, Communicator& comm, double timeout) {
  Backend& backend = *context.backend;
  if (!backend.shares_host_memory() && comm.size() > 1 &&
      every_rank_has_its_own_device(comm, backend.device_id())) {
    try {
      context.collectives = make_nccl(backend, comm, timeout);
      context.uses_nccl = true;
      return;
    } catch (const CollectiveError& error) {
      // On all ranks alike: a build without NCCL, slices of one GPU, a network that NCCL does not get to
      // know.
      if (comm.is_root())
        log::warn("the ranks exchange data through host memory and MPI, which takes longer: {}",
                  error.what());
    }
  }
  context.collectives = make_mpi_collectives(backend, comm);
}

}  // namespace

ComputeContext make_compute(const JobConfig& job, Communicator& comm) {
  ComputeContext context;
  context.backend =
      make_backend({job.compute.backend, threads_of_rank(job.compute, comm), number_on_node(comm)});
  require_one_kind(*context.backend, comm);
  make_collectives(context, comm, job.comm.timeout);
  std::int64_t use_bf16 =
      job.compute.dtype == "bf16" || (job.compute.dtype == "auto" && context.backend->fast_bf16());
  comm.broadcast(&use_bf16, sizeof(use_bf16), 0);
  context.dtype = use_bf16 != 0 ? DType::bf16 : DType::f32;
  return context;
}

std::unique_ptr<DeviceCollectives> make_team_collectives(const ComputeContext& compute, Communicator& team,
                                                         const JobConfig& job) {
  if (compute.uses_nccl && team.size() > 1) return make_nccl(*compute.backend, team, job.comm.timeout);
  return make_mpi_collectives(*compute.backend, team);
}

std::int64_t chunk_tokens_of(const JobConfig& job, const Backend& backend) {
  return chunk_tokens_of(job, !backend.shares_host_memory());
}

std::int64_t chunk_tokens_of(const JobConfig& job, bool on_gpu) {
  if (job.calibration.chunk_tokens > 0) return job.calibration.chunk_tokens;
  return on_gpu ? 16384 : 2048;
}

bool uses_reference(const JobConfig& job) {
  return job.quantization.method == "gptq" && job.quantization.correction_alpha > 0;
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
  identity["calibration.chunk_tokens"] = std::to_string(chunk_tokens_of(job, *compute.backend));
  identity["arithmetic version"] = kArithmeticVersion;
  identity["arithmetic type"] = std::string(name_of(compute.dtype));
  identity[kBackendKey] = compute.backend->kind();
  identity["calibration sha256"] = calibration_sha256;
  std::array<char, 64> digits{};
  run_on_root(comm, [&] {
    const std::string hash = weights_sha256(model.files());
    std::copy(hash.begin(), hash.end(), digits.begin());
  });
  comm.broadcast(digits.data(), digits.size(), 0);
  identity["weights sha256"] = std::string(digits.begin(), digits.end());
  // config.json decides what the bytes of an fp8 source mean.
  if (const ModelConfig& config = model.config(); config.fp8.present) {
    std::string& form = identity["fp8 weights"] = std::string(name_of(config.dtype));
    for (const Fp8Block& block : config.fp8.blocks) form += fmt::format(", {} x {}", block.rows, block.cols);
  }
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

std::string work_fingerprint_of(std::map<std::string, std::string> identity) {
  identity.erase(kBackendKey);
  return fingerprint_of(identity);
}

}  // namespace gptq
