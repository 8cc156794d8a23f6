#include "base/error.h"
#include "tools/bench/kernel_bench.h"

namespace gptq::bench {
namespace {

Shapes llama_3_8b(bool quick) {
  Shapes shapes{"llama-3-8b",
                4096,
                14336,
                32,
                8,
                128,
                128256,
                2048,
                {2048, 8192, 16384},
                {576, 1536, 4096, 14336},
                8192,
                2048,
                8192,
                std::size_t{1} << 30,
                128};
  if (quick) {
    shapes.tokens = {8192};
    shapes.widths = {4096, 14336};
  }
  return shapes;
}

/// SmolLM2-135M: what a CPU quantizes in a minute.
Shapes smollm2(bool quick) {
  Shapes shapes{"smollm2", 576,          1536,        9,    3,   64,   49152,
                1024,      {2048, 8192}, {576, 1536}, 4096, 512, 2048, std::size_t{256} << 20,
                128};
  if (quick) {
    shapes.tokens = {2048};
    shapes.loss_tokens = 128;
  }
  return shapes;
}

/// A rehearsal: every case once on any backend, an emulated one too.
Shapes tiny(bool) {
  return {"tiny", 64, 96, 2, 1, 32, 200, 16, {32}, {64, 96}, 64, 16, 64, std::size_t{1} << 16, 32};
}

}  // namespace

Shapes find_shapes(const std::string& name, bool quick) {
  if (name == "llama-3-8b") return llama_3_8b(quick);
  if (name == "smollm2") return smollm2(quick);
  if (name == "tiny") return tiny(quick);
  throw UsageError("--shapes {}: known are llama-3-8b, smollm2, tiny", name);
}

}  // namespace gptq::bench
