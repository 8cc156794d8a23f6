#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/job_config.h"

namespace gptq {

/// Perplexity of one model on one file of token windows.
struct Evaluation {
  std::string model;
  std::string data;
  double perplexity =
      0;  ///< exp(mean of -log p(token | those before it in its window)); first tokens not counted
  std::int64_t tokens = 0;  ///< predictions
  double seconds = 0;
  std::int64_t peak_memory_bytes = 0;  ///< summed over ranks
};

/// `gptq-hpc eval`: every file of eval.data, windows sharded over ranks, sums taken in window order (the same
/// on any number of ranks). Collective.
std::vector<Evaluation> run_evaluate(const JobConfig& job, Communicator& comm);

/// JSON text of the evaluations: an object for one, a list for several.
std::string to_json(const std::vector<Evaluation>& evaluations);

}  // namespace gptq
