#include <algorithm>

#include "backend/device_matrix.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "io/calibration.h"
#include "model/recipe_check.h"
#include "model/source_model.h"
#include "pipeline/grid_choice.h"
#include "pipeline/job_context.h"
#include "pipeline/plan.h"

namespace gptq {
namespace {

/// Of the product that a machine is measured by: large enough to fill it.
struct ProductShape {
  std::int64_t rows, inputs, outputs;
  double flops() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(inputs) * static_cast<double>(outputs);
  }
};

HostTensor any_values(std::int64_t rows, std::int64_t cols, DType dtype) {
  HostTensor tensor = make_tensor(DType::f32, {rows, cols});
  float* values = tensor.matrix().row<float>(0);
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    state = state * 1664525u + 1013904223u;  // Numerical Recipes' generator: any non-constant values do
    values[i] = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
  }
  return convert(tensor, dtype);
}

/// A product of matrices in the backend's memory, to be timed.
class Product {
 public:
  Product(Backend& backend, DType compute, const ProductShape& shape)
      : backend_(backend),
        shape_(shape),
        batch_{{0, shape.rows}},
        x_(backend, any_values(shape.rows, shape.inputs, compute)),
        y_(backend, compute, shape.rows, shape.outputs),
        weights_(backend.kernels().prepare_linear(
            any_values(shape.outputs, shape.inputs, DType::f32).matrix(), {}, compute)) {
    multiply(1);  // whatever is made at the first use
  }

  double once() {
    Stopwatch watch;
    multiply(1);
    return watch.seconds();
  }
  /// FLOP/s over at least so many seconds.
  double rate(int at_once, double seconds) {
    Stopwatch watch;
    int runs = 0;
    do {
      multiply(at_once);
      runs += at_once;
    } while (watch.seconds() < seconds);
    return shape_.flops() * runs / watch.seconds();
  }

 private:
  void multiply(int times) {
    for (int i = 0; i < times; ++i)
      backend_.kernels().linear(batch_, x_.matrix(), *weights_, y_.matrix(), false);
    backend_.synchronize();
  }

  Backend& backend_;
  ProductShape shape_;
  Batch batch_;
  DeviceMatrix x_, y_;
  std::unique_ptr<LinearWeights> weights_;
};

std::vector<std::int64_t> sample_lengths(const JobConfig& job, const ModelWeights& model) {
  std::vector<std::int64_t> lengths;
  if (job.quantization.method != "gptq") return lengths;
  const CalibrationData data =
      read_calibration(job.calibration.path, choice_of(job.calibration), model.config().vocab_size);
  check_tokenizer(data, job.model.path);
  for (const auto& sample : data.samples) lengths.push_back(static_cast<std::int64_t>(sample.size()));
  return lengths;
}

}  // namespace

double measure_matrix_rate(Backend& backend, DType compute, double seconds) {
  if (backend.shares_host_memory()) return Product(backend, compute, {2048, 1024, 1024}).rate(1, seconds);
  // A GPU shows what it can do with large products only. From small ones upwards, because an emulated one
  // would need hours for the last.
  constexpr double slow = 0.02;
  for (const std::int64_t size : {64, 512, 2048}) {
    Product product(backend, compute, {2 * size, size, size});
    if (product.once() > slow) return product.rate(1, seconds);
  }
  // Several at a time: waiting for each would count the waiting.
  return Product(backend, compute, {8192, 4096, 4096}).rate(10, seconds);
}

PlannedJob run_plan(const JobConfig& job, const PlannedMachines& machines) {
  const int ranks = machines.ranks;
  const GridShape grid = grid_of(job.parallel, ranks);
  const int node_ranks = machines.ranks_per_node > 0 ? std::min(machines.ranks_per_node, ranks) : ranks;
  const int device_ranks = std::min(machines.ranks_per_device, node_ranks);
  const std::unique_ptr<ModelWeights> model = open_source_model(job);
  for (const std::string& note : check_recipe(*model, job)) log::warn("{}", note);
  PlanRequest request{job, *model, sample_lengths(job, *model), ranks};
  request.ranks_on_node = node_ranks;
  request.stages = grid.stages;
  request.node_memory_bytes =
      machines.node_memory_bytes > 0 ? machines.node_memory_bytes : host_memory_bytes();

  ComputeContext context;
  if (machines.device_memory_bytes > 0) {
    request.device = PlannedDevice::absent(machines.device_memory_bytes, device_ranks, ranks);
    request.compute = job.compute.dtype == "fp32" ? DType::f32 : DType::bf16;
  } else {
    const int threads =
        job.compute.threads > 0 ? job.compute.threads : std::max(1, available_cores() / node_ranks);
    ComputeSection section = job.compute;
    if (machines.device_memory_bytes == 0) section.backend = "cpu";
    context = make_local_compute(section, threads);
    request.device = PlannedDevice::of(*context.backend, device_ranks);
    request.compute = context.dtype;
  }
  const Plan plan = make_plan(request);
  require_fit(request, plan);
  const double rate =
      context.backend ? measure_matrix_rate(*context.backend, context.dtype) : machines.device_rate;
  return {plan, rate, machines.disk_speed};
}

}  // namespace gptq
