#include <algorithm>
#include <cmath>

#include "tools/bench/kernel_bench_data.h"

/// Kernels that use prepared weights: linear, cross_entropy, and the preparation itself.
namespace gptq::bench {
namespace {

double product(std::int64_t a, std::int64_t b, std::int64_t c = 1) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

std::shared_ptr<const LinearWeights> random_weights(const Bench& bench, std::int64_t out, std::int64_t in) {
  const DeviceMatrix host = random_host_matrix(bench, bench.dtype, out, in, 0.02f);
  std::shared_ptr<const LinearWeights> weights = bench.kernels().prepare_linear(host.matrix, {}, bench.dtype);
  bench.backend.synchronize();
  return weights;
}

/// accumulate: y (f32) += x·Wᵀ as for the residual stream, else y = x·Wᵀ in the compute type.
Case linear(const Bench& bench, std::int64_t tokens, std::int64_t out, std::int64_t in, bool accumulate) {
  const double flops = 2 * product(tokens, out, in);
  return {"linear",
          shape_text({tokens, out, in}) + (accumulate ? " +=" : ""),
          {flops, 0, {{Limit::matrix, flops}}, "flops 2 tokens out in", {}},
          [&bench, tokens, out, in, accumulate] {
            struct Data {
              Batch batch;
              std::shared_ptr<const LinearWeights> weights;
              DeviceMatrix x, y;
            };
            auto data =
                std::make_shared<Data>(Data{batch_of(bench, tokens), random_weights(bench, out, in),
                                            random_matrix(bench, bench.dtype, tokens, in),
                                            accumulate ? random_matrix(bench, DType::f32, tokens, out)
                                                       : poisoned_matrix(bench, bench.dtype, tokens, out)});
            Prepared prepared;
            prepared.run = [&bench, data, accumulate] {
              bench.kernels().linear(data->batch, data->x.matrix, *data->weights, data->y.matrix, accumulate);
            };
            if (!accumulate) {
              prepared.outputs = {data->y.matrix};
            } else {
              prepared.problem = [&bench, data, before = tail_of(bench, data->y.matrix)] {
                return tail_of(bench, data->y.matrix) == before ? "nothing was added" : "";
              };
            }
            return prepared;
          }};
}

Case cross_entropy(const Bench& bench) {
  const Shapes& s = bench.shapes;
  const double flops = 2 * product(s.loss_tokens, s.hidden, s.vocab);
  return {"cross_entropy",
          shape_text({s.loss_tokens, s.vocab, s.hidden}),
          {flops, 0, {{Limit::matrix, flops}}, "flops 2 tokens vocabulary hidden", {}},
          [&bench, &s] {
            struct Data {
              Batch batch;
              std::shared_ptr<const LinearWeights> head;
              DeviceMatrix x;
              std::vector<std::int32_t> targets;
              std::vector<double> losses;
            };
            const auto rows = static_cast<std::size_t>(s.loss_tokens);
            auto data = std::make_shared<Data>(
                Data{batch_of(bench, s.loss_tokens), random_weights(bench, s.vocab, s.hidden),
                     random_matrix(bench, bench.dtype, s.loss_tokens, s.hidden), random_ids(rows, s.vocab),
                     std::vector<double>(rows, NAN)});
            Prepared prepared;
            prepared.run = [&bench, data] {
              bench.kernels().cross_entropy(data->batch, data->x.matrix, *data->head, data->targets,
                                            data->losses, {});
            };
            prepared.problem = [data] {
              const bool good = std::all_of(data->losses.begin(), data->losses.end(),
                                            [](double loss) { return loss > 0 && std::isfinite(loss); });
              return good ? "" : "a loss is not positive and finite";
            };
            return prepared;
          }};
}

/// Weights that were just prepared multiply a few rows to finite, nonzero values.
std::string weights_problem(const Bench& bench, const LinearWeights& weights) {
  const std::int64_t rows = 16;
  const DeviceMatrix x = random_matrix(bench, bench.dtype, rows, weights.in_features());
  const DeviceMatrix y = poisoned_matrix(bench, bench.dtype, rows, weights.out_features());
  bench.kernels().linear(batch_of(bench, rows), x.matrix, weights, y.matrix, false);
  if (!bench.kernels().all_finite(y.matrix)) return "the weights' products are not finite";
  const std::vector<float> tail = tail_of(bench, y.matrix);
  const bool zero = std::all_of(tail.begin(), tail.end(), [](float value) { return value == 0; });
  return zero ? "the weights' products are zero" : "";
}

/// What a preparation reads from host memory passes the link to the device, if there is one.
Cost preparation_cost(const Bench& bench, double read, const std::string& counted) {
  const bool shared = bench.backend.shares_host_memory();
  return {0, read, {{shared ? Limit::memory : Limit::upload, read}}, counted, {}};
}

Case prepare_linear(const Bench& bench) {
  const std::int64_t out = bench.shapes.intermediate, in = bench.shapes.hidden;
  return {
      "prepare_linear", shape_text({out, in}),
      preparation_cost(bench, product(out, in) * bench.element(), "host weights read"), [&bench, out, in] {
        struct Data {
          DeviceMatrix host;
          std::unique_ptr<LinearWeights> weights;
        };
        auto data =
            std::make_shared<Data>(Data{random_host_matrix(bench, bench.dtype, out, in, 0.02f), nullptr});
        return Prepared{[&bench, data] {
                          data->weights = bench.kernels().prepare_linear(data->host.matrix, {}, bench.dtype);
                        },
                        {},
                        [&bench, data] { return weights_problem(bench, *data->weights); }};
      }};
}

/// A quantized linear of random codes, in plain host memory as a model's file gives it.
struct RandomCodes {
  RandomCodes(std::int64_t out, std::int64_t in, std::int64_t width)
      : codes(static_cast<std::size_t>(out * in)), group_of(static_cast<std::size_t>(in)) {
    const std::vector<std::int32_t> random = random_ids(8191, 16);
    for (std::size_t i = 0; i < codes.size(); ++i)
      codes[i] = static_cast<std::uint8_t>(random[i % random.size()]);
    for (std::int64_t c = 0; c < in; ++c)
      group_of[static_cast<std::size_t>(c)] = static_cast<std::int32_t>(c / width);
    groups = (in + width - 1) / width;
    scales.resize(static_cast<std::size_t>(out * groups), to_f16(0.004f));
    zeros.resize(scales.size(), 8);
  }

  std::vector<std::uint8_t> codes;
  std::vector<std::int32_t> group_of;
  std::int64_t groups;
  std::vector<f16> scales;
  std::vector<std::uint8_t> zeros;
};

Case prepare_quantized(const Bench& bench) {
  const std::int64_t out = bench.shapes.intermediate, in = bench.shapes.hidden;
  const std::int64_t width = bench.shapes.group_size;
  return {"prepare_quantized", shape_text({out, in}),
          preparation_cost(bench, product(out, in) + product(out, (in + width - 1) / width) * 3,
                           "codes, scales and zeros read"),
          [&bench, out, in, width] {
            struct Data {
              RandomCodes host;
              std::unique_ptr<LinearWeights> weights;
            };
            auto data = std::make_shared<Data>(Data{RandomCodes(out, in, width), nullptr});
            const QuantizedWeights weights{out,
                                           in,
                                           data->host.groups,
                                           data->host.codes.data(),
                                           data->host.scales.data(),
                                           data->host.zeros.data(),
                                           data->host.group_of.data()};
            return Prepared{[&bench, data, weights] {
                              data->weights = bench.kernels().prepare_quantized(weights, {}, bench.dtype);
                            },
                            {},
                            [&bench, data] { return weights_problem(bench, *data->weights); }};
          }};
}

}  // namespace

std::vector<Case> weight_cases(const Bench& bench) {
  const Shapes& s = bench.shapes;
  std::vector<Case> cases;
  for (const std::int64_t tokens : s.tokens) {
    cases.push_back(linear(bench, tokens, s.heads * s.head_dim, s.hidden, false));
    cases.push_back(linear(bench, tokens, s.kv_heads * s.head_dim, s.hidden, false));
    cases.push_back(linear(bench, tokens, s.intermediate, s.hidden, false));
    cases.push_back(linear(bench, tokens, s.hidden, s.intermediate, false));
    cases.push_back(linear(bench, tokens, s.hidden, s.intermediate, true));
  }
  cases.push_back(cross_entropy(bench));
  cases.push_back(prepare_linear(bench));
  cases.push_back(prepare_quantized(bench));
  return cases;
}

}  // namespace gptq::bench
