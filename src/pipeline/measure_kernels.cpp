#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "backend/device_matrix.h"
#include "base/clock.h"
#include "base/sha256.h"
#include "pipeline/job_context.h"
#include "pipeline/measure_machine.h"
#include "pipeline/plan_shapes.h"
#include "quant/factor.h"
#include "quant/packing.h"
#include "quant/recipe.h"

namespace gptq {
namespace {

constexpr double kLeastSeconds = 0.03;  ///< of the runs of one case
constexpr int kLeastRuns = 3;
constexpr double kLongSeconds = 1.0;                       ///< a case that takes longer is run once
constexpr std::int64_t kMostDeviceRows = 8192;             ///< that are solved in one case
constexpr std::int64_t kMostRuns = std::int64_t{1} << 20;  ///< that a sum has room for

HostTensor random_values(std::int64_t rows, std::int64_t cols, DType dtype) {
  HostTensor tensor = make_tensor(DType::f32, {rows, cols});
  float* values = tensor.matrix().row<float>(0);
  std::uint64_t state = 88172645463325252ull;
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    state ^= state << 13;  // Marsaglia's xorshift: columns must not repeat each other
    state ^= state >> 7;
    state ^= state << 17;
    values[i] = static_cast<float>(state >> 40) * 0x1p-24f - 0.5f;
  }
  return convert(tensor, dtype);
}

/// Times one kernel after the other and keeps the rates.
class KernelTimer {
 public:
  KernelTimer(const JobConfig& job, const ModelShape& model, const MeasuredShapes& shapes, Backend& backend,
              DType compute)
      : job_(job),
        model_(model),
        shapes_(shapes),
        backend_(backend),
        kernels_(backend.kernels()),
        compute_(compute),
        element_(static_cast<double>(size_of(compute))),
        suffix_(compute == DType::bf16 ? ".bf16" : ".f32"),
        recipe_(job.quantization),
        block_(measure_block(model, job, recipe_, 0, compute)) {
    for (std::int64_t end = 0; end < shapes.chunk_tokens;) {
      end = std::min(end + shapes.sample_tokens, shapes.chunk_tokens);
      batch_.offsets.push_back(end);
    }
  }

  std::map<std::string, std::vector<RatePoint>> run() {
    time_forward();
    for (const GroupShape& group : block_.groups)
      if (group.quantized_rows > 0) time_group(group);
    time_loss();
    time_bytes();
    return points();
  }

  /// Seconds of the kernels of a block's forward pass, each once.
  double forward_seconds() {
    time_forward();
    double sum = 0;
    for (const auto& [kernel, cases] : seconds_) {
      for (const auto& [work, times] : cases) sum = std::accumulate(times.begin(), times.end(), sum);
    }
    return sum;
  }

 private:
  void time_forward() {
    for (const BlockStep& step : model_.layout(0).steps) {
      for (const StageGroup& group : step.groups) {
        const bool adds = step.writes_residual && group.adds_to_residual;
        for (const LinearShape& layer : group.layers) time_linear(layer, adds);
      }
    }
    time_attention();
    time_rows();
  }

  /// The median of some runs: the fastest is what a job never sees.
  double seconds_of(const std::function<void()>& work) {
    std::vector<double> times;
    double all = 0;
    for (int run = 0; run <= kLeastRuns || all < kLeastSeconds; ++run) {
      Stopwatch watch;
      work();
      backend_.synchronize();
      const double seconds = watch.seconds();
      if (run == 0 && seconds < kLongSeconds) continue;  // makes whatever is made at the first use
      times.push_back(seconds);
      all += seconds;
      if (all > kLongSeconds) break;
    }
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
  }

  void time(const std::string& kernel, double work, const std::function<void()>& run) {
    const double cores = backend_.shares_host_memory() ? backend_.threads() : 1;
    seconds_[kernel][work].push_back(seconds_of(run) * cores);
  }

  /// Cases of one amount of work count as one, with their mean time.
  std::map<std::string, std::vector<RatePoint>> points() const {
    std::map<std::string, std::vector<RatePoint>> result;
    for (const auto& [kernel, cases] : seconds_) {
      for (const auto& [work, times] : cases) {
        double sum = 0;
        for (const double seconds : times) sum += seconds;
        result[kernel].push_back({work, work * static_cast<double>(times.size()) / sum});
      }
    }
    return result;
  }

  std::int64_t tokens() const { return shapes_.chunk_tokens; }

  /// adds: to the residual stream, in single precision.
  void time_linear(const LinearShape& layer, bool adds) {
    const HostTensor values = random_values(layer.out_features, layer.in_features, model_.config().dtype);
    const auto weights = kernels_.prepare_linear(values.matrix(), {}, compute_);
    const DeviceMatrix x(backend_, random_values(tokens(), layer.in_features, compute_));
    const DeviceMatrix y(backend_, random_values(tokens(), layer.out_features, adds ? DType::f32 : compute_));
    const double size = static_cast<double>(layer.in_features * layer.out_features);
    time("linear" + suffix_, 2 * size * static_cast<double>(tokens()),
         [&] { kernels_.linear(batch_, x.matrix(), *weights, y.matrix(), adds); });
    time("prepare", element_ * size, [&] { kernels_.prepare_linear(values.matrix(), {}, compute_); });
  }

  void time_attention() {
    const ModelConfig& config = model_.config();
    const std::int64_t width = config.num_attention_heads * config.head_dim;
    const std::int64_t keys = config.num_key_value_heads * config.head_dim;
    const DeviceMatrix q(backend_, random_values(tokens(), width, compute_));
    const DeviceMatrix k(backend_, random_values(tokens(), keys, compute_));
    const DeviceMatrix out(backend_, compute_, tokens(), width);
    AttentionShape shape;
    shape.heads = config.num_attention_heads;
    shape.kv_heads = config.num_key_value_heads;
    shape.head_dim = config.head_dim;
    shape.scale = 0.1f;
    double pairs = 0;
    for (std::int64_t s = 0; s < batch_.samples(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      const auto length = static_cast<double>(batch_.offsets[at + 1] - batch_.offsets[at]);
      pairs += 0.5 * length * (length + 1);
    }
    time("attention" + suffix_, 4 * pairs * static_cast<double>(width),
         [&] { kernels_.attention(batch_, shape, q.matrix(), k.matrix(), k.matrix(), out.matrix()); });
  }

  /// The two kinds that take most: the norm with its maximum, and the gate.
  void time_rows() {
    const std::int64_t hidden = model_.config().hidden_size, inner = model_.config().intermediate_size;
    const auto rows = static_cast<double>(tokens());
    const DeviceMatrix stream(backend_, random_values(tokens(), hidden, DType::f32));
    const DeviceMatrix normed(backend_, compute_, tokens(), hidden);
    const std::vector<float> ones(static_cast<std::size_t>(hidden), 1.0f);
    const DeviceBuffer weight = to_device(backend_, ones.data(), ones.size() * sizeof(float));
    const DeviceBuffer maximum = to_device(backend_, ones.data(), ones.size() * sizeof(float));
    time("rows", rows * static_cast<double>(hidden) * (4 + 2 * element_), [&] {
      kernels_.rms_norm(stream.matrix(), {weight.as<float>(), ones.size()}, 1e-5f, 0, normed.matrix());
      kernels_.column_max(normed.matrix(), maximum.as<float>());
    });
    const DeviceMatrix gate(backend_, random_values(tokens(), inner, compute_));
    const DeviceMatrix up(backend_, random_values(tokens(), inner, compute_));
    const DeviceMatrix out(backend_, compute_, tokens(), inner);
    time("rows", rows * static_cast<double>(inner) * 3 * element_,
         [&] { kernels_.gated_activation(Activation::silu, gate.matrix(), up.matrix(), out.matrix()); });
  }

  /// Sum, factor and solves of one stage group.
  void time_group(const GroupShape& group) {
    const std::int64_t n = group.in_features;
    const auto width = static_cast<double>(n);
    const DeviceMatrix x(backend_, random_values(tokens(), n, compute_));
    const std::vector<float> maximum(static_cast<std::size_t>(n), 0.5f);
    HessianSum sum = make_hessian_sum(backend_, maximum, kMostRuns * tokens());
    time("hessian" + suffix_, width * width * static_cast<double>(tokens()), [&] {
      for (const PanelRange& range : kernels_.hessian_ranges(n))
        kernels_.accumulate_hessian(x.matrix(), sum.exponents, range, sum.values());
    });
    if (group.cross_rows > 0) time_cross(group, x, sum);
    StageFactor factor;
    time("factor", width * width * width / 3,
         [&] { factor = factor_hessian(backend_, sum, job_.quantization); });
    time("expand", 4 * width * width, [&] { expand_hessian(backend_, sum, factor); });
    time_row_solvers(group, factor);
  }

  void time_cross(const GroupShape& group, const DeviceMatrix& x, const HessianSum& sum) {
    const DeviceMatrix d(backend_, random_values(tokens(), group.cross_rows, compute_));
    const std::vector<float> bound(static_cast<std::size_t>(group.cross_rows), 0.5f);
    const CrossSum cross =
        make_cross_sum(backend_, CorrectionTarget::residual, bound, group.in_features, kMostRuns * tokens());
    time("cross" + suffix_, 2 * static_cast<double>(group.cross_rows * group.in_features * tokens()), [&] {
      kernels_.accumulate_cross(d.matrix(), cross.d_exponents, x.matrix(), sum.exponents, cross.values());
    });
  }

  /// So many rows that all threads, or the whole device, have some: 64 are a thread's panel.
  std::int64_t rows_at_once(const GroupShape& group) const {
    const std::int64_t share = std::max<std::int64_t>(1, group.quantized_rows / shapes_.row_shares);
    const std::int64_t most =
        backend_.shares_host_memory() ? 4 * SolveOptions::kPanelRows * backend_.threads() : kMostDeviceRows;
    return std::min(share, most);
  }

  void time_row_solvers(const GroupShape& group, StageFactor& factor) {
    const std::int64_t n = group.in_features;
    const std::int64_t count = rows_at_once(group);
    const HostTensor weights = random_values(count, n, DType::f32);
    const std::vector<RowsToSolve> parts{{weights.matrix()}};
    const SolveOptions options = solve_options(job_.quantization);
    const double product = static_cast<double>(n * n) * static_cast<double>(count);
    std::vector<QuantizedRows> rows;
    time("solve", 2 * product, [&] {
      rows = kernels_.solve_rows(parts, factor.columns, factor.factor(), factor.damping, options);
    });
    const float* const h = factor.hessian.as<float>();
    if (uses_reference(job_))
      time("correct", 4 * product,
           [&] { kernels_.correct_rows(parts, factor.columns, h, factor.factor(), 0.5); });
    if (job_.quantization.refine_sweeps > 0) {
      const int sweeps = job_.quantization.refine_sweeps;
      time("refine", 2 * product * sweeps, [&] {
        std::vector<QuantizedRows> again = rows;
        kernels_.refine_rows(parts, factor.columns, h, options, {sweeps, job_.quantization.refine_scales},
                             again);
      });
    }
  }

  void time_loss() {
    const std::int64_t hidden = model_.config().hidden_size;
    const std::int64_t vocabulary = std::min<std::int64_t>(model_.config().vocab_size, 8192);
    const std::int64_t rows = std::min<std::int64_t>(tokens(), 256);
    const auto head =
        kernels_.prepare_linear(random_values(vocabulary, hidden, DType::f32).matrix(), {}, compute_);
    const DeviceMatrix x(backend_, random_values(rows, hidden, compute_));
    const Batch batch{{0, rows}};
    const std::vector<std::int32_t> targets(static_cast<std::size_t>(rows), 1);
    std::vector<double> losses(targets.size());
    time("loss", 2 * static_cast<double>(rows * vocabulary * hidden),
         [&] { kernels_.cross_entropy(batch, x.matrix(), *head, targets, losses, model_.config().logits); });
  }

  /// One thread's work on bytes: looking through weights as loading does, packing and hashing codes.
  void time_bytes() {
    const auto alone = [&](const std::string& kernel, double work, const std::function<void()>& run) {
      seconds_[kernel][work].push_back(seconds_of(run));
    };
    const LinearShape& layer = model_.layout(0).steps.front().groups.front().layers.front();
    const HostTensor weight = random_values(layer.out_features, layer.in_features, DType::f32);
    HostTensor copy = make_tensor(DType::f32, {layer.out_features, layer.in_features});
    alone("decode", static_cast<double>(weight.storage.size()), [&] {
      std::copy(weight.storage.data(), weight.storage.data() + weight.storage.size(), copy.storage.data());
      std::uint32_t largest = 0;
      const float* const values = copy.matrix().row<float>(0);
      for (std::int64_t i = 0; i < copy.elements(); ++i)
        largest = std::max(largest, static_cast<std::uint32_t>(std::abs(values[i])));
      unused_ += largest;
    });
    QuantizedLayer codes;
    codes.out_features = layer.out_features;
    codes.in_features = layer.in_features;
    codes.groups = 1;
    codes.bits = 4;
    codes.codes.assign(static_cast<std::size_t>(layer.out_features * layer.in_features), 7);
    codes.scales.assign(static_cast<std::size_t>(layer.out_features), f16{});
    codes.zeros.assign(static_cast<std::size_t>(layer.out_features), 8);
    codes.group_of.assign(static_cast<std::size_t>(layer.in_features), 0);
    const double packed = static_cast<double>(codes.codes.size()) / 2;
    alone("pack", packed, [&] {
      const PackedLayer result = pack(codes, CheckpointFormat::gptq);
      Sha256 hash;
      hash.update(result.qweight.storage.data(), result.qweight.storage.size());
      unused_ += hash.hex().size();
    });
  }

  const JobConfig& job_;
  const ModelShape& model_;
  const MeasuredShapes& shapes_;
  Backend& backend_;
  Kernels& kernels_;
  DType compute_;
  double element_;
  std::string suffix_;
  Recipe recipe_;
  BlockShape block_;
  Batch batch_;
  std::map<std::string, std::map<double, std::vector<double>>> seconds_;  ///< core seconds by kernel and work
  std::size_t unused_ = 0;  ///< keeps the compiler from leaving work out
};

}  // namespace

std::map<std::string, std::vector<RatePoint>> measure_kernels(const JobConfig& job, const ModelShape& model,
                                                              const MeasuredShapes& shapes, Backend& backend,
                                                              DType compute) {
  return KernelTimer(job, model, shapes, backend, compute).run();
}

double measure_forward(const JobConfig& job, const ModelShape& model, const MeasuredShapes& shapes,
                       Backend& backend, DType compute) {
  return KernelTimer(job, model, shapes, backend, compute).forward_seconds();
}

}  // namespace gptq
