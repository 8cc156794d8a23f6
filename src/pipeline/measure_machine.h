#pragma once

#include <map>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/model_shape.h"
#include "pipeline/machine.h"

namespace gptq {

/// What kernels are measured on.
struct MeasuredShapes {
  std::int64_t chunk_tokens = 2048;
  std::int64_t sample_tokens = 512;
  int row_shares = 1;  ///< ranks among which rows are dealt out
};

/// Times the kernels at the shapes of the model's first block and of the job's recipe: random values, the
/// median of some runs, rates of one core or device.
std::map<std::string, std::vector<RatePoint>> measure_kernels(const JobConfig& job, const ModelShape& model,
                                                              const MeasuredShapes& shapes, Backend& backend,
                                                              DType compute);

/// Seconds of the kernels of the first block's forward pass over one chunk, each once.
double measure_forward(const JobConfig& job, const ModelShape& model, const MeasuredShapes& shapes,
                       Backend& backend, DType compute);

/// `gptq-hpc plan --measure`: the present machine, with as many ranks as there are: kernels on the root while
/// the others wait, then those of a forward pass on 1, 2, ... ranks at a time; broadcasts and all-reduces; a
/// file of 256 MB beside the output. Takes some tens of seconds. Of one node: UsageError with more of them,
/// and with one rank, which has no links to measure. Collective.
Machine measure_machine(const JobConfig& job, Communicator& comm);

}  // namespace gptq
