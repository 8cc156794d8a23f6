#include <cmath>

#include "base/error.h"
#include "tools/bench/kernel_bench_data.h"

namespace gptq::bench {
namespace {

std::int64_t q_width(const Shapes& shapes) {
  return shapes.heads * shapes.head_dim;
}

/// A case that does little but move `bytes` for each of its rows x cols elements.
Case moving(const Bench& bench, const std::string& operation, const std::string& shape, std::int64_t cols,
            double bytes, const std::string& counted, std::function<Prepared()> prepare) {
  const double all = static_cast<double>(bench.shapes.forward_tokens) * static_cast<double>(cols) * bytes;
  return {operation, shape, {0, all, {{Limit::memory, all}}, counted, {}}, std::move(prepare)};
}

/// For kernels that work in place: the end of x is finite and not what it was.
std::string changed_problem(const Bench& bench, const Matrix& x, const std::vector<float>& before) {
  const std::vector<float> after = tail_of(bench, x);
  for (const float value : after)
    if (!std::isfinite(value)) return "not finite";
  return after == before ? "nothing changed" : "";
}

Case attention(const Bench& bench) {
  const Shapes& s = bench.shapes;
  const auto length = static_cast<double>(s.sample_tokens);
  const double samples = static_cast<double>(s.forward_tokens) / length;
  const double flops = samples * 4 * length * length / 2 * static_cast<double>(q_width(s));
  const std::string shape = fmt::format("{}x{}, {}/{} heads of {}", s.forward_tokens / s.sample_tokens,
                                        s.sample_tokens, s.heads, s.kv_heads, s.head_dim);
  return {"attention",
          shape,
          {flops, 0, {{Limit::matrix, flops}}, "flops 4 L^2/2 heads dim a sample (causal half)", {}},
          [&bench, &s] {
            struct Data {
              Batch batch;
              DeviceMatrix q, k, v, out;
              AttentionShape shape;
            };
            const std::int64_t rows = s.forward_tokens;
            const std::int64_t narrow = s.kv_heads * s.head_dim;
            auto data = std::make_shared<Data>(Data{batch_of(bench, rows),
                                                    random_matrix(bench, bench.dtype, rows, q_width(s)),
                                                    random_matrix(bench, bench.dtype, rows, narrow, 0.9f),
                                                    random_matrix(bench, bench.dtype, rows, narrow, 0.8f),
                                                    poisoned_matrix(bench, bench.dtype, rows, q_width(s)),
                                                    {}});
            data->shape.heads = s.heads;
            data->shape.kv_heads = s.kv_heads;
            data->shape.head_dim = s.head_dim;
            data->shape.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
            return Prepared{[&bench, data] {
                              bench.kernels().attention(data->batch, data->shape, data->q.matrix,
                                                        data->k.matrix, data->v.matrix, data->out.matrix);
                            },
                            {data->out.matrix},
                            {}};
          }};
}

Case rms_norm(const Bench& bench) {
  const Shapes& s = bench.shapes;
  return moving(
      bench, "rms_norm", shape_text({s.forward_tokens, s.hidden}), s.hidden, (4 + bench.element()),
      "x (f32) read, y written", [&bench, &s] {
        struct Data {
          DeviceMatrix x, y;
          std::vector<float> weight;
        };
        auto data =
            std::make_shared<Data>(Data{random_matrix(bench, DType::f32, s.forward_tokens, s.hidden),
                                        poisoned_matrix(bench, bench.dtype, s.forward_tokens, s.hidden),
                                        random_floats(static_cast<std::size_t>(s.hidden), 1)});
        return Prepared{[&bench, data] {
                          bench.kernels().rms_norm(data->x.matrix, data->weight, 1e-5f, 0, data->y.matrix);
                        },
                        {data->y.matrix},
                        {}};
      });
}

Case head_rms_norm(const Bench& bench) {
  const Shapes& s = bench.shapes;
  return moving(
      bench, "head_rms_norm", shape_text({s.forward_tokens, s.heads, s.head_dim}), q_width(s),
      2 * bench.element(), "q read and written", [&bench, &s] {
        struct Data {
          DeviceMatrix x;
          std::vector<float> weight, before;
        };
        auto data =
            std::make_shared<Data>(Data{random_matrix(bench, bench.dtype, s.forward_tokens, q_width(s), 3),
                                        std::vector<float>(static_cast<std::size_t>(s.head_dim), 1.0f),
                                        {}});
        data->before = tail_of(bench, data->x.matrix);
        return Prepared{
            [&bench, data] { bench.kernels().head_rms_norm(data->x.matrix, data->weight, 1e-5f, 0); },
            {},
            [&bench, data] { return changed_problem(bench, data->x.matrix, data->before); }};
      });
}

Case rotary(const Bench& bench) {
  const Shapes& s = bench.shapes;
  return moving(
      bench, "rotary", shape_text({s.forward_tokens, s.heads, s.head_dim}), q_width(s), 2 * bench.element(),
      "q read and written", [&bench, &s] {
        struct Data {
          Batch batch;
          DeviceMatrix x;
          DeviceBuffer cos, sin;
          std::vector<float> before;
        };
        std::vector<float> cosines, sines;
        for (std::int64_t position = 0; position < s.sample_tokens; ++position) {
          for (std::int64_t pair = 0; pair < s.head_dim / 2; ++pair) {
            const double exponent = -2.0 * static_cast<double>(pair) / static_cast<double>(s.head_dim);
            const double angle = static_cast<double>(position) * std::pow(1e4, exponent);
            cosines.push_back(static_cast<float>(std::cos(angle)));
            sines.push_back(static_cast<float>(std::sin(angle)));
          }
        }
        const std::size_t bytes = cosines.size() * sizeof(float);
        auto data =
            std::make_shared<Data>(Data{batch_of(bench, s.forward_tokens),
                                        random_matrix(bench, bench.dtype, s.forward_tokens, q_width(s)),
                                        to_device(bench.backend, cosines.data(), bytes),
                                        to_device(bench.backend, sines.data(), bytes),
                                        {}});
        data->before = tail_of(bench, data->x.matrix);
        const RotaryTable table{s.sample_tokens, s.head_dim, data->cos.as<const float>(),
                                data->sin.as<const float>()};
        return Prepared{[&bench, &s, data, table] {
                          bench.kernels().rotary(data->batch, data->x.matrix, s.head_dim, table);
                        },
                        {},
                        [&bench, data] { return changed_problem(bench, data->x.matrix, data->before); }};
      });
}

Case gated_activation(const Bench& bench) {
  const Shapes& s = bench.shapes;
  return moving(
      bench, "gated_activation", shape_text({s.forward_tokens, s.intermediate}), s.intermediate,
      3 * bench.element(), "gate and up read, out written", [&bench, &s] {
        struct Data {
          DeviceMatrix gate, up, out;
        };
        const std::int64_t rows = s.forward_tokens;
        auto data = std::make_shared<Data>(Data{random_matrix(bench, bench.dtype, rows, s.intermediate),
                                                random_matrix(bench, bench.dtype, rows, s.intermediate, 0.9f),
                                                poisoned_matrix(bench, bench.dtype, rows, s.intermediate)});
        return Prepared{[&bench, data] {
                          bench.kernels().gated_activation(Activation::silu, data->gate.matrix,
                                                           data->up.matrix, data->out.matrix);
                        },
                        {data->out.matrix},
                        {}};
      });
}

Case embed(const Bench& bench) {
  const Shapes& s = bench.shapes;
  return moving(
      bench, "embed", shape_text({s.forward_tokens, s.hidden}), s.hidden, (bench.element() + 4),
      "rows of the table read, out (f32) written", [&bench, &s] {
        struct Data {
          DeviceMatrix table, out;
          std::vector<std::int32_t> ids;
        };
        auto data =
            std::make_shared<Data>(Data{random_matrix(bench, bench.dtype, s.vocab, s.hidden, 0.02f),
                                        poisoned_matrix(bench, DType::f32, s.forward_tokens, s.hidden),
                                        random_ids(static_cast<std::size_t>(s.forward_tokens), s.vocab)});
        return Prepared{
            [&bench, data] { bench.kernels().embed(data->ids, data->table.matrix, data->out.matrix); },
            {data->out.matrix},
            {}};
      });
}

Case all_finite(const Bench& bench) {
  const Shapes& s = bench.shapes;
  return moving(
      bench, "all_finite", shape_text({s.forward_tokens, s.hidden}), s.hidden, 4, "x (f32) read",
      [&bench, &s] {
        struct Data {
          DeviceMatrix x;
          bool finite = false;
        };
        auto data =
            std::make_shared<Data>(Data{random_matrix(bench, DType::f32, s.forward_tokens, s.hidden)});
        return Prepared{[&bench, data] { data->finite = bench.kernels().all_finite(data->x.matrix); },
                        {},
                        [data] { return data->finite ? "" : "finite values are called infinite"; }};
      });
}

}  // namespace

std::vector<Case> forward_cases(const Bench& bench) {
  return {attention(bench),        rms_norm(bench), head_rms_norm(bench), rotary(bench),
          gated_activation(bench), embed(bench),    all_finite(bench)};
}

}  // namespace gptq::bench
