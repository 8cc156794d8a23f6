#include "config/job_schema.h"

#include <algorithm>

#include "config/key_table.h"

namespace gptq {
namespace {

std::vector<Key> input_keys() {
  using enum Effect;
  using enum Meaning;
  return {
      {GPTQ_KEY(model.path), result, any(), path,
       "Hugging Face directory of the source model: config.json, safetensors, tokenizer. Required."},

      {GPTQ_KEY(calibration.path), result, any(), path,
       "HDF5 file made by tools/prepare_calibration.py. Required by `quantize` unless the method is rtn."},
      {GPTQ_KEY(calibration.num_samples), result, at_least(0), word,
       "Use the first so many samples; 0: all."},
      {GPTQ_KEY(calibration.min_length), result, at_least(0), word,
       "Samples of fewer tokens, padding not counted, are left out; num_samples counts what remains."},
      {GPTQ_KEY(calibration.pad_token), result, this_or_at_least(-1, 0), word,
       "Token id that is padding where it stands at a sample's beginning or end; -1: none. Files with an\n"
       "attention_mask say it themselves. Padding enters neither the forward pass nor a Hessian."},
      {GPTQ_KEY(calibration.order), result, words({"as_is", "longest_first"}), word,
       "In which order the chosen samples are taken. Which samples those are does not depend on it."},
      {GPTQ_KEY(calibration.held_out), result, within('[', 0, 0.5, ']'), word,
       "Part of the samples that enters no Hessian: the outputs' error on them is reported, layer by layer\n"
       "and of the whole model (perplexity, beside the source's), and what improves the error on the other\n"
       "samples but worsens this one is not taken. The last ones are; a single sample never is."},
      {GPTQ_KEY(calibration.chunk_tokens), result, at_least(0), word,
       "Samples are multiplied into the Hessian in chunks of about so many tokens. Chunks, not ranks, fix\n"
       "the arithmetic: the output does not depend on the number of ranks, but it does on this. 0: 2048 on\n"
       "a CPU, 16384 on a GPU. Smaller chunks can be dealt to more ranks."},
  };
}

/// Where it is computed, what is written, and the rest.
std::vector<Key> work_keys() {
  using enum Effect;
  using enum Meaning;
  return {
      {GPTQ_KEY(fallback.min_tokens), result, at_least(0), word,
       "A layer whose Hessian saw fewer tokens is rounded to nearest; 0: none is for that reason. (In a\n"
       "dense model every layer sees all calibration tokens.)"},
      {GPTQ_KEY(fallback.max_layers), speed, at_least(0), word,
       "So many layers may fall back to round-to-nearest, for too few tokens or because no damping makes\n"
       "their Hessian positive definite, before the job fails; each one is reported."},

      {GPTQ_KEY(compute.backend), result, words({"auto", "cpu", "cuda"}), word,
       "auto: cuda where it was built and a GPU is present, else cpu."},
      {GPTQ_KEY(compute.dtype), result, words({"auto", "bf16", "fp32"}), word,
       "Of the forward pass and the Hessian's products. auto: bf16 where the hardware multiplies it fast, "
       "else fp32."},
      {GPTQ_KEY(compute.threads), speed, within('[', 0, 65536, ']'), word,
       "Per rank; 0: the node's cores divided by its ranks."},
      {GPTQ_KEY(compute.activations), speed, words({"auto", "device", "host", "disk"}), word,
       "Where the activations of a rank's samples lie between two steps. auto: on the device where they fit, "
       "else in\n"
       "pinned host memory, else in a file. For the CPU backend device and host are one."},
      {GPTQ_KEY(compute.spill_path), speed, any(), path,
       "Directory of that file, best on a local disk; empty: spill/ inside output.path."},

      {GPTQ_KEY(parallel.stages), speed, auto_or(at_least(1)), word,
       "The ranks form so many stages, which hold the blocks in turn. auto: one, or what the number of "
       "replicas\n"
       "leaves. More stages read fewer bytes each; they work at the same time with quantization.propagation\n"
       "full_precision and with method rtn, and else take turns and help each other with the rows."},
      {GPTQ_KEY(parallel.replicas), speed, auto_or(at_least(1)), word,
       "Ranks of a stage, which share the samples: stages times replicas is the number of ranks. auto: what\n"
       "the number of stages leaves."},
      {GPTQ_KEY(parallel.solvers), speed, words({"auto", "world", "stage"}), word,
       "Who shares the rows of a layer: the ranks of all stages, or of the one that holds the layer; with "
       "one\n"
       "stage they are the same. auto: all where stages take turns; else those of the stage, and world is "
       "refused."},

      {GPTQ_KEY(output.format), result, words({"gptq", "dequantized"}), word,
       "gptq: packed codes and scales. dequantized: an ordinary model in the source's types, each quantized\n"
       "weight written as the number that it stands for, so that any tool can evaluate it; it saves no "
       "room."},
      {GPTQ_KEY(output.checkpoint_format), result, words({"gptq", "gptq_v2", "gptq_p"}), word,
       "gptq stores zeros minus one, as every loader expects; gptq_v2 the zeros themselves; gptq_p these, "
       "and\n"
       "codes of 3, 5, 6 and 7 bits in planes, as GPTQModel 7 does and no one else. Layers of 5, 6 or 7 "
       "bits\n"
       "make it gptq_p by themselves; the other two are refused then, since no loader could read the "
       "output."},
      {GPTQ_KEY(output.quantization_config), result, words({"gptq", "mixed_gptq"}), word,
       "How config.json tells layers of different bits apart. gptq: rules in `dynamic`, which GPTQModel and\n"
       "vLLM read; mixed_gptq: OneComp's list of every layer's bits."},
      {GPTQ_KEY(output.max_shard_bytes), result, at_least(1), word, "Largest safetensors file, in bytes."},
      {GPTQ_KEY(output.path), speed, any(), path, "Directory to make. Required by `quantize`."},
      {GPTQ_KEY(output.overwrite), speed, any(), word,
       "Replace an existing output that is not this job's own; `quantize --overwrite` does the same."},

      {GPTQ_KEY(checkpoint.enabled), speed, any(), word,
       "Keep on disk what an interrupted job needs to go on. `quantize` resumes from it by itself;\n"
       "`quantize --fresh` starts over. False: an interrupted job starts from the beginning."},
      {GPTQ_KEY(checkpoint.path), speed, any(), path,
       "Directory of the checkpoints; empty: checkpoint/ inside output.path."},
      {GPTQ_KEY(checkpoint.interval), speed, at_least(0), word,
       "Seconds between two checkpoints, so the most work that an interruption costs; 0: at every safe "
       "point."},
      {GPTQ_KEY(checkpoint.keep), speed, at_least(1), word,
       "So many checkpoints are kept; a damaged one is passed over for the one before it."},
      {GPTQ_KEY(checkpoint.other_backend), speed, words({"refuse", "accept"}), word,
       "What to do with a checkpoint that another backend wrote (cpu, cuda). accept: go on from it; the\n"
       "result is then as good, but has the bytes of neither backend alone. Needs the same compute.dtype\n"
       "and chunk_tokens."},

      {GPTQ_KEY(comm.timeout), speed, above(0), word,
       "Seconds that a rank waits for the others in a collective operation. After that the ranks that did\n"
       "not come are named and the job ends. Must exceed the longest work that one rank does alone."},

      {GPTQ_KEY(eval.model), eval, any(), path, "Model directory to evaluate; empty: output.path."},
      {GPTQ_KEY(eval.data), eval, any(), path,
       "HDF5 files of tokens, made like the calibration's; one perplexity each. Required by `eval`."},
      {GPTQ_KEY(eval.num_samples), eval, at_least(0), word,
       "Use the first so many samples of each file; 0: all."},

      {GPTQ_KEY(report.errors), speed, any(), word,
       "Adds every layer's squared errors of weights and outputs to the report, besides the relative ones."},

      {GPTQ_KEY(log.level), speed, words({"debug", "info", "warn", "error"}), word,
       "Least severity that is printed."},
      {GPTQ_KEY(log.progress), speed, words({"auto", "bar", "lines", "none"}), word,
       "auto: a bar on a terminal, plain lines in a batch log."},
  };
}

}  // namespace

std::string_view name_of(Effect effect) {
  switch (effect) {
    case Effect::result:
      return "result";
    case Effect::speed:
      return "speed";
    case Effect::eval:
      return "eval";
  }
  return "";
}

const std::vector<Key>& job_keys() {
  static const std::vector<Key> keys = [] {
    std::vector<Key> all;
    for (const auto& rows : {input_keys(), quantization_keys(), work_keys()})
      all.insert(all.end(), rows.begin(), rows.end());
    return all;
  }();
  return keys;
}

const std::vector<Section>& job_sections() {
  static const std::vector<Section> sections = {
      {"model", "What is quantized."},       {"calibration", "Token sequences that show the model at work."},
      {"quantization", "The recipe."},       {"fallback", "Layers that cannot be solved."},
      {"compute", "Where it is computed."},  {"parallel", "How the ranks share the work."},
      {"output", "What is written."},        {"checkpoint", "How an interrupted job goes on."},
      {"comm", "How ranks work together."},  {"eval", "What `gptq-hpc eval` measures."},
      {"report", "What report.json holds."}, {"log", "What is printed on the way."},
  };
  return sections;
}

const Key* find_key(std::string_view path) {
  const auto& keys = job_keys();
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const Key& key) { return key.path == path; });
  return found == keys.end() ? nullptr : &*found;
}

}  // namespace gptq
