#include "config/job_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace gptq {
namespace {

Limits any() {
  return {};
}

Limits words(std::vector<std::string> allowed) {
  Limits limits;
  limits.words = std::move(allowed);
  return limits;
}

Limits numbers(std::vector<std::int64_t> allowed) {
  Limits limits;
  limits.numbers = std::move(allowed);
  return limits;
}

Limits at_least(double low) {
  Limits limits;
  limits.has_range = true;
  limits.low = low;
  return limits;
}

Limits above(double low) {
  Limits limits = at_least(low);
  limits.low_open = true;
  return limits;
}

Limits this_or_at_least(std::int64_t special, double low) {
  Limits limits = at_least(low);
  limits.numbers = {special};
  return limits;
}

/// within('(', 0, 1, ']') is 0 < x <= 1.
Limits within(char left, double low, double high, char right) {
  Limits limits = at_least(low);
  limits.high = high;
  limits.low_open = left == '(';
  limits.high_open = right == ')';
  return limits;
}

// Name and member from one text, so that they cannot differ.
#define KEY(member_path) \
#member_path, Member(+[](JobConfig& job) -> decltype((job.member_path)) { return job.member_path; })

std::vector<Key> make_keys() {
  using enum Effect;
  using enum Meaning;
  return {
      {KEY(model.path), result, any(), path,
       "Hugging Face directory of the source model: config.json, safetensors, tokenizer. Required."},

      {KEY(calibration.path), result, any(), path,
       "HDF5 file made by tools/prepare_calibration.py. Required by `quantize` unless the method is rtn."},
      {KEY(calibration.num_samples), result, at_least(0), word, "Use the first so many samples; 0: all."},
      {KEY(calibration.held_out), result, within('[', 0, 0.5, ']'), word,
       "Part of the samples that enters no Hessian: the outputs' error on them is reported, and what "
       "improves "
       "the\n"
       "error on the other samples but worsens this one is not taken."},
      {KEY(calibration.chunk_tokens), result, at_least(0), word,
       "Samples are multiplied into the Hessian in chunks of about so many tokens. Chunks, not ranks, fix "
       "the\n"
       "arithmetic: the output does not depend on the number of ranks, but it does on this. 0: 2048 on a "
       "CPU,\n"
       "16384 on a GPU. Smaller chunks can be dealt to more ranks."},

      {KEY(quantization.method), result, words({"gptq", "rtn"}), word,
       "gptq, or rtn: round to nearest without calibration, the baseline to compare with."},
      {KEY(quantization.bits), result, numbers({2, 3, 4, 8}), word, "Bits of a weight."},
      {KEY(quantization.group_size), result, this_or_at_least(-1, 1), word,
       "Consecutive input columns that share a scale; -1: all of them. The last group may be smaller.\n"
       "vLLM's and SGLang's Marlin kernels take -1, 32, 64 and 128."},
      {KEY(quantization.sym), result, any(), word, "Symmetric grid (a fixed zero in the middle)."},
      {KEY(quantization.damp_percent), result, within('(', 0, 1, ')'), word,
       "Damping: this fraction of the mean of the Hessian's diagonal is added to the diagonal."},
      {KEY(quantization.damp_auto_increment), result, within('[', 0, 1, ')'), word,
       "Added to damp_percent while a Hessian is not positive definite; 0: never."},
      {KEY(quantization.desc_act), result, any(), word,
       "Activation order: columns by falling diagonal of the Hessian. Needs g_idx at inference, which is "
       "slower there.\n"
       "Not together with act_group_aware, whose default becomes false when this is true."},
      {KEY(quantization.act_group_aware), result, any(), word,
       "Activation order inside the groups only: nearly as good, and free at inference."},
      {KEY(quantization.static_groups), result, any(), word,
       "Scales from the original weights, before any of a layer's columns is quantized."},
      {KEY(quantization.scale_search), result, words({"minmax", "mse", "weighted"}), word,
       "How a group's scale is found: minmax (the largest weight fits), mse (least sum of |error|^mse_norm), "
       "weighted\n"
       "(the same, each column weighted by the Hessian's diagonal). With method rtn the default is minmax, "
       "and\n"
       "weighted is refused: there is no Hessian."},
      {KEY(quantization.mse_norm), result, within('(', 0, 8, ']'), word,
       "Exponent of the error in the scale search."},
      {KEY(quantization.mse_grid), result, within('[', 2, 10000, ']'), word,
       "Steps from the full range down to nothing in the scale search."},
      {KEY(quantization.max_shrink), result, within('(', 0, 1, ')'), word,
       "The part of those steps that is tried: 0.8 tries ranges down to a fifth of the full one."},
      {KEY(quantization.true_sequential), result, any(), word,
       "Each layer's Hessian sees the quantized layers before it in its block. False: a block's Hessians all "
       "come from\n"
       "its original weights, which costs a second forward pass."},
      {KEY(quantization.quality), result, words({"fast", "default", "best"}), word,
       "Sets the defaults of the keys from here to best_of; docs/quality.md has their figures. fast: plain "
       "GPTQ "
       "with\n"
       "the weighted scale search."},
      {KEY(quantization.token_weight), result, words({"none", "residual"}), word,
       "What a token counts for in the Hessians of layers that write to the residual stream. residual: the "
       "inverse\n"
       "square of the stream's size there, since the next norm divides by it."},
      {KEY(quantization.refine_sweeps), result, within('[', 0, 100, ']'), word,
       "Sweeps of coordinate descent over the solved codes, on the exact loss; 0: none."},
      {KEY(quantization.refine_scales), result, any(), word,
       "With refine_sweeps: fits each group's scale to its codes in closed form before every sweep."},
      {KEY(quantization.correction_alpha), result, within('[', 0, 1, ']'), word,
       "Error-propagation correction (QEP, GPTAQ): weights are moved so far towards those that make up for "
       "the "
       "errors\n"
       "of the layers before. Costs a second, full-precision forward pass; 0: none."},
      {KEY(quantization.correction_part), result, within('(', 0, 1, ']'), word,
       "The correction is found from this part of the calibration's chunks, evenly spread: its sum takes "
       "twice "
       "the\n"
       "time of the Hessian's."},
      {KEY(quantization.correction_layers), result, any(), pattern,
       "Layers to correct, in the form of include; empty: all."},
      {KEY(quantization.rotation), result, words({"none", "hadamard"}), word,
       "hadamard: turns the residual stream and the heads' values by random-sign Hadamard matrices, merged "
       "into "
       "the\n"
       "weights. The function stays the same, outliers go, and every loader takes the result; a tied head is "
       "untied."},
      {KEY(quantization.best_of), result, any(), word,
       "Further candidates for every layer, each a text of settings such as \"scale_search=mse "
       "mse_norm=2.4\" or\n"
       "\"damp_percent=0.01\"; each row keeps the candidate with the least exact loss."},
      {KEY(quantization.include), result, any(), pattern,
       "Layers to quantize: module names (full, or inside the block) or regexes found in the full name.\n"
       "Empty: every linear of the blocks; lm_head is not one of them."},
      {KEY(quantization.exclude), result, any(), pattern,
       "Layers to keep as they are, in the same form; wins over include."},
      {KEY(quantization.max_fallbacks), speed, at_least(0), word,
       "So many layers may fall back to round-to-nearest before the job fails; each one is reported."},

      {KEY(compute.backend), result, words({"auto", "cpu", "cuda"}), word,
       "auto: cuda where it was built and a GPU is present, else cpu."},
      {KEY(compute.dtype), result, words({"auto", "bf16", "fp32"}), word,
       "Of the forward pass and the Hessian's products. auto: bf16 where the hardware multiplies it fast, "
       "else fp32."},
      {KEY(compute.threads), speed, within('[', 0, 65536, ']'), word,
       "Per rank; 0: the node's cores divided by its ranks."},
      {KEY(compute.activations), speed, words({"auto", "device", "host", "disk"}), word,
       "Where the activations of a rank's samples lie between two steps. auto: on the device where they fit, "
       "else in\n"
       "pinned host memory, else in a file. For the CPU backend device and host are one."},
      {KEY(compute.spill_path), speed, any(), path,
       "Directory of that file, best on a local disk; empty: spill/ inside output.path."},
      {KEY(compute.micro_batch), speed, at_least(0), word,
       "Samples in flight per rank; 0: as many as threads."},

      {KEY(output.format), result, words({"gptq", "dequantized"}), word,
       "gptq: packed codes and scales. dequantized: an ordinary model in the source's types, each quantized "
       "weight\n"
       "written as the number that it stands for, so that any tool can evaluate it; it saves no room."},
      {KEY(output.checkpoint_format), result, words({"gptq", "gptq_v2"}), word,
       "gptq stores zeros minus one, as every loader expects; gptq_v2 stores the zeros themselves."},
      {KEY(output.max_shard_bytes), result, at_least(1), word, "Largest safetensors file, in bytes."},
      {KEY(output.path), speed, any(), path, "Directory to make. Required by `quantize`."},
      {KEY(output.overwrite), speed, any(), word,
       "Replace an existing output that is not this job's own; `quantize --overwrite` does the same."},

      {KEY(checkpoint.enabled), speed, any(), word,
       "Keep on disk what an interrupted job needs to go on. `quantize` resumes from it by itself;\n"
       "`quantize --fresh` starts over. False: an interrupted job starts from the beginning."},
      {KEY(checkpoint.path), speed, any(), path,
       "Directory of the checkpoints; empty: checkpoint/ inside output.path."},
      {KEY(checkpoint.interval), speed, at_least(0), word,
       "Seconds between two checkpoints, so the most work that an interruption costs; 0: at every safe "
       "point."},
      {KEY(checkpoint.keep), speed, at_least(1), word,
       "So many checkpoints are kept; a damaged one is passed over for the one before it."},
      {KEY(checkpoint.other_backend), speed, words({"refuse", "accept"}), word,
       "What to do with a checkpoint that another backend wrote (cpu, cuda). accept: go on from it; the "
       "result "
       "is then\n"
       "as good, but has the bytes of neither backend alone. Needs the same compute.dtype and chunk_tokens."},

      {KEY(comm.timeout), speed, above(0), word,
       "Seconds that a rank waits for the others in a collective operation. After that the ranks that did "
       "not\n"
       "come are named and the job ends. Must exceed the longest work that one rank does alone."},

      {KEY(eval.model), eval, any(), path, "Model directory to evaluate; empty: output.path."},
      {KEY(eval.data), eval, any(), path,
       "HDF5 files of tokens, made like the calibration's; one perplexity each. Required by `eval`."},
      {KEY(eval.num_samples), eval, at_least(0), word, "Use the first so many samples of each file; 0: all."},

      {KEY(log.level), speed, words({"debug", "info", "warn", "error"}), word,
       "Least severity that is printed."},
      {KEY(log.progress), speed, words({"auto", "bar", "lines", "none"}), word,
       "auto: a bar on a terminal, plain lines in a batch log."},
  };
}

#undef KEY

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " or " : ", ";
    text += items[i];
  }
  return text;
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
  static const std::vector<Key> keys = make_keys();
  return keys;
}

const std::vector<Section>& job_sections() {
  static const std::vector<Section> sections = {
      {"model", "What is quantized."},        {"calibration", "Token sequences that show the model at work."},
      {"quantization", "The recipe."},        {"compute", "Where it is computed."},
      {"output", "What is written."},         {"checkpoint", "How an interrupted job goes on."},
      {"comm", "How ranks work together."},   {"eval", "What `gptq-hpc eval` measures."},
      {"log", "What is printed on the way."},
  };
  return sections;
}

const Key* find_key(std::string_view path) {
  const auto& keys = job_keys();
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const Key& key) { return key.path == path; });
  return found == keys.end() ? nullptr : &*found;
}

bool Limits::allow(double number) const {
  const auto same = [&](std::int64_t allowed) { return static_cast<double>(allowed) == number; };
  if (std::any_of(numbers.begin(), numbers.end(), same)) return true;
  if (!has_range) return numbers.empty();
  return (low_open ? number > low : number >= low) && (high_open ? number < high : number <= high);
}

bool Limits::allow(const std::string& word) const {
  return words.empty() || std::find(words.begin(), words.end(), word) != words.end();
}

std::string Limits::describe() const {
  std::vector<std::string> parts = words;
  for (std::int64_t number : numbers) parts.push_back(std::to_string(number));
  if (has_range && high == std::numeric_limits<double>::infinity()) {
    parts.push_back(fmt::format("{} {}", low_open ? "above" : "at least", low));
  } else if (has_range) {
    parts.push_back(fmt::format("in {}{}, {}{}", low_open ? '(' : '[', low, high, high_open ? ')' : ']'));
  }
  return joined(parts);
}

}  // namespace gptq
