#pragma once

#include <map>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "comm/device_collectives.h"
#include "config/job_config.h"
#include "model/weights.h"

namespace gptq {

/// This rank's place to compute, chosen from the job's `compute` section, and the type it computes in.
struct ComputeContext {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<DeviceCollectives> collectives;  ///< on the backend's memory
  bool uses_nccl = false;
  DType dtype = DType::f32;
};

/// Threads: compute.threads, else OMP_NUM_THREADS, else this rank's fair part of the cores it may run on.
/// dtype auto: bf16 where the backend multiplies it faster, else fp32; every rank then uses the root's
/// choice. Each rank takes the GPU of its number on the node. NCCL where every rank has a GPU of its own and
/// NCCL starts (else the root warns), MPI otherwise. Throws UsageError if ranks came to different backends.
/// Collective.
ComputeContext make_compute(const JobConfig& job, Communicator& comm);
/// For some of the ranks of make_compute(), on the same terms: NCCL where all ranks use it. Collective over
/// the team.
std::unique_ptr<DeviceCollectives> make_team_collectives(const ComputeContext& compute, Communicator& team,
                                                         const JobConfig& job);
/// The same for one process without others: planning. The collectives are left out.
ComputeContext make_local_compute(const ComputeSection& section, int threads);

/// calibration.chunk_tokens; 0 is what suits the backend: 2048 for the CPU's caches, 16384 on a GPU, where a
/// larger product hides the cost of the exact sum.
std::int64_t chunk_tokens_of(const JobConfig& job, const Backend& backend);
/// on_gpu: the backend has memory of its own.
std::int64_t chunk_tokens_of(const JobConfig& job, bool on_gpu);
/// Whether the job sends a full-precision stream beside the quantized one.
bool uses_reference(const JobConfig& job);

/// Ranks that run on this rank's node. Collective.
int ranks_on_this_node(Communicator& comm);

/// Everything that decides the bytes of a job's result, by name: the source weights' identity, the
/// calibration's hash, the version of the arithmetic and every option that changes the result. Two jobs with
/// one identity write the same bytes. The root looks at the files; the others are told. Collective.
std::map<std::string, std::string> job_identity(const JobConfig& job, const ModelWeights& model,
                                                const std::string& calibration_sha256,
                                                const ComputeContext& compute, Communicator& comm);
/// SHA-256 of an identity.
std::string fingerprint_of(const std::map<std::string, std::string>& identity);
/// The name of the backend in an identity.
inline constexpr const char* kBackendKey = "arithmetic backend";
/// SHA-256 of an identity without its backend.
std::string work_fingerprint_of(std::map<std::string, std::string> identity);

}  // namespace gptq
