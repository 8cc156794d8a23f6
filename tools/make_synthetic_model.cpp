// Writes a model of any shape with random weights, and token files that fit it: what checks and benchmarks
// use where no real model can be brought.
//
//   make_synthetic_model --shape llama-3-8b --calibration calibration.h5 --samples 128 --tokens 2048 model/

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/clock.h"
#include "base/error.h"
#include "synthetic/model_files.h"
#include "synthetic/tokens.h"

namespace {

using namespace gptq;

struct CommandLine {
  std::string shape = "tiny";
  std::string model_type, output, calibration, eval;
  std::string dtype = "bf16";
  std::int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  bool tie = false, no_tie = false, hollow = false;
  std::uint64_t seed = 1;
  double shard_gigabytes = 5;
  int threads = 0;
  std::int64_t samples = 128, tokens = 2048, eval_samples = 16;
};

void declare(CLI::App& app, CommandLine& line) {
  app.add_option("output", line.output, "Directory to make")->required();
  app.add_option("--shape", line.shape, "Of a known model")
      ->check(CLI::IsMember(synthetic::known_shapes()))
      ->capture_default_str();
  app.add_option("--model-type", line.model_type, "llama, mistral, qwen2 or qwen3, in place of the shape's");
  app.add_option("--hidden", line.hidden, "In place of the shape's; so are the next ones");
  app.add_option("--intermediate", line.intermediate);
  app.add_option("--layers", line.layers);
  app.add_option("--heads", line.heads);
  app.add_option("--kv-heads", line.kv_heads);
  app.add_option("--head-dim", line.head_dim, "hidden / heads where --hidden or --heads is given");
  app.add_option("--vocab", line.vocab);
  auto* const tie = app.add_flag("--tie", line.tie, "The head is the embedding");
  app.add_flag("--no-tie", line.no_tie, "The head is a tensor of its own")->excludes(tie);
  app.add_flag("--hollow", line.hollow, "Zeros that take no room on disk, for `gptq-hpc plan`");
  app.add_option("--dtype", line.dtype)->check(CLI::IsMember({"bf16", "f16", "f32"}))->capture_default_str();
  app.add_option("--seed", line.seed)->capture_default_str();
  app.add_option("--shard-size", line.shard_gigabytes, "Largest safetensors file, GB")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", line.threads, "0: all cores; no byte depends on it")->capture_default_str();
  app.add_option("--calibration", line.calibration, "Also write this calibration file");
  app.add_option("--samples", line.samples, "In the calibration file")->capture_default_str();
  app.add_option("--tokens", line.tokens, "Of each sample, in both files")->capture_default_str();
  app.add_option("--eval", line.eval, "Also write this file of other samples, for `gptq-hpc eval`");
  app.add_option("--eval-samples", line.eval_samples, "In that file")->capture_default_str();
}

synthetic::Shape shape_of(const CommandLine& line) {
  synthetic::Shape shape = synthetic::find_shape(line.shape);
  if (!line.model_type.empty()) shape.model_type = line.model_type;
  const auto replace = [](std::int64_t& value, std::int64_t wanted) {
    if (wanted != 0) value = wanted;
  };
  replace(shape.hidden, line.hidden);
  replace(shape.intermediate, line.intermediate);
  replace(shape.layers, line.layers);
  replace(shape.heads, line.heads);
  replace(shape.kv_heads, line.kv_heads);
  replace(shape.vocab, line.vocab);
  if ((line.hidden != 0 || line.heads != 0) && shape.heads > 0) shape.head_dim = shape.hidden / shape.heads;
  replace(shape.head_dim, line.head_dim);
  if (line.tie) shape.tie = true;
  if (line.no_tie) shape.tie = false;
  return shape;
}

void run(const CommandLine& line) {
  synthetic::ModelOptions options;
  options.shape = shape_of(line);
  options.dtype = line.dtype == "f32" ? DType::f32 : line.dtype == "f16" ? DType::f16 : DType::bf16;
  options.seed = line.seed;
  options.shard_bytes = static_cast<std::uint64_t>(line.shard_gigabytes * 1e9);
  options.threads = line.threads;
  options.hollow = line.hollow;
  const Stopwatch watch;
  const auto bytes = static_cast<double>(synthetic::write_model(line.output, options));
  const double seconds = watch.seconds();
  std::printf("%s: %.2f GB of weights in %.1f s (%.2f GB/s)\n", line.output.c_str(), bytes * 1e-9, seconds,
              bytes * 1e-9 / seconds);
  synthetic::TokenOptions tokens{line.samples, line.tokens, options.shape.vocab, line.seed * 2};
  if (!line.calibration.empty()) synthetic::write_tokens(line.calibration, tokens);
  tokens.samples = line.eval_samples;
  tokens.seed = line.seed * 2 + 1;
  if (!line.eval.empty()) synthetic::write_tokens(line.eval, tokens);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes a model of any shape with plausible random weights, and token files that fit it");
  CommandLine line;
  declare(app, line);
  CLI11_PARSE(app, argc, argv);
  try {
    run(line);
    return 0;
  } catch (const gptq::Error& error) {
    std::fprintf(stderr, "make_synthetic_model: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_synthetic_model: %s\n", error.what());
    return 1;
  }
}
