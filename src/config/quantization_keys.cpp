#include "config/key_table.h"

namespace gptq {
namespace {

Limits bits() {
  return because(within('[', 2, 8, ']'),
                 "codes of more than 8 bits have no place in the format (its loaders stop there), and for "
                 "fewer than 2 there is trits: true");
}

}  // namespace

std::vector<Key> quantization_keys() {
  using enum Effect;
  using enum Meaning;
  using enum Scope;
  return {
      {GPTQ_KEY(quantization.method), result, words({"gptq", "rtn"}), word,
       "gptq, or rtn: round to nearest without calibration, the baseline to compare with."},
      {GPTQ_KEY(quantization.bits), result, bits(), word,
       "Bits of a weight. Most loaders take 4 and 8, fewer 2 and 3, and GPTQModel alone 5, 6 and 7\n"
       "(output.checkpoint_format: gptq_p).",
       layer},
      {GPTQ_KEY(quantization.trits), result, any(), word,
       "Three levels only (1.58 bit), stored at 2 bits: codes 0, 1 and 2. Sets bits to 2.", layer},
      {GPTQ_KEY(quantization.group_size), result, this_or_at_least(-1, 1), word,
       "Consecutive input columns that share a scale; -1: all of them. The last group may be smaller.\n"
       "vLLM's and SGLang's Marlin kernels take -1, 32, 64 and 128.",
       layer},
      {GPTQ_KEY(quantization.per_channel), result, any(), word,
       "A scale for every output channel (and group). False: one scale for a whole tensor, found on its\n"
       "original weights; group_size is -1 then.",
       layer},
      {GPTQ_KEY(quantization.sym), result, any(), word, "Symmetric grid (a fixed zero in the middle).",
       layer},
      {GPTQ_KEY(quantization.damp_percent), result, within('(', 0, 1, ')'), word,
       "Damping: this fraction of the mean of the Hessian's diagonal is added to the diagonal.", candidate},
      {GPTQ_KEY(quantization.damp_auto_increment), result, within('[', 0, 1, ')'), word,
       "Added to damp_percent while a Hessian is not positive definite; 0: never.", layer},
      {GPTQ_KEY(quantization.desc_act), result, any(), word,
       "Activation order: columns by falling diagonal of the Hessian. Needs g_idx at inference, which is\n"
       "slower there. Not together with act_group_aware, whose default becomes false when this is true.",
       layer},
      {GPTQ_KEY(quantization.act_group_aware), result, any(), word,
       "Activation order inside the groups only: nearly as good, and free at inference.", candidate},
      {GPTQ_KEY(quantization.static_groups), result, any(), word,
       "Scales from the original weights, before any of a layer's columns is quantized.", layer},
      {GPTQ_KEY(quantization.scale_search), result, words({"minmax", "mse", "weighted"}), word,
       "How a group's scale is found: minmax (the largest weight fits), mse (least sum of\n"
       "|error|^mse_norm), weighted (the same, each column weighted by the Hessian's diagonal). With method\n"
       "rtn the default is minmax, and weighted is refused: there is no Hessian.",
       candidate},
      {GPTQ_KEY(quantization.mse_norm), result, within('(', 0, 8, ']'), word,
       "Exponent of the error in the scale search (GPTQModel, OneComp: 2.4).", candidate},
      {GPTQ_KEY(quantization.mse_grid), result, within('[', 2, 10000, ']'), word,
       "Steps from the full range down to nothing in the scale search (OneComp: 600).", candidate},
      {GPTQ_KEY(quantization.max_shrink), result, within('(', 0, 1, ')'), word,
       "The part of those steps that is tried: 0.8 tries ranges down to a fifth of the full one.", candidate},
      {GPTQ_KEY(quantization.true_sequential), result, any(), word,
       "Each layer's Hessian sees the quantized layers before it in its block. False: a block's Hessians\n"
       "all come from its original weights, which costs a second forward pass."},
      {GPTQ_KEY(quantization.propagation), result, words({"quantized", "full_precision"}), word,
       "What a layer's Hessian sees before the layer. quantized: the layers before it as they were "
       "quantized,\n"
       "so that each can make up for the errors of those before; stages take turns then. full_precision: "
       "the\n"
       "model as it was, in one forward pass; stages work at the same time (parallel.stages). Not together\n"
       "with correction_alpha above 0, or with true_sequential false."},
      {GPTQ_KEY(quantization.quality), result, words({"fast", "default", "best"}), word,
       "Sets the defaults of the keys from here to best_of. fast: plain GPTQ with the weighted scale\n"
       "search. default: also correction_alpha 1, in less than twice the time. best: also refine_sweeps 3\n"
       "and rotation hadamard."},
      {GPTQ_KEY(quantization.token_weight), result, words({"none", "residual"}), word,
       "What a token counts for in the Hessians of layers that write to the residual stream. residual: the\n"
       "inverse square of the stream's size there, since the next norm divides by it."},
      {GPTQ_KEY(quantization.refine_sweeps), result, within('[', 0, 100, ']'), word,
       "Sweeps of coordinate descent over the solved codes, on the exact loss; 0: none.", candidate},
      {GPTQ_KEY(quantization.refine_scales), result, any(), word,
       "With refine_sweeps: fits each group's scale to its codes in closed form before every sweep.",
       candidate},
      {GPTQ_KEY(quantization.correction_alpha), result, within('[', 0, 1, ']'), word,
       "Error-propagation correction (QEP, GPTAQ): weights are moved so far towards those that make up for\n"
       "the errors of the layers before. Costs a second, full-precision forward pass; 0: none."},
      {GPTQ_KEY(quantization.correction_target), result, words({"output", "residual"}), word,
       "What corrected layers aim at. residual: layers that write to the residual stream (o_proj,\n"
       "down_proj) aim at the full-precision stream behind them, and so make up for all that the layers\n"
       "before could not; the others are not corrected. output: every layer aims at what its weights make\n"
       "of the full-precision model's input (QEP, GPTAQ)."},
      {GPTQ_KEY(quantization.correction_layers), result, any(), pattern,
       "Layers to correct, in the form of include; empty: all."},
      {GPTQ_KEY(quantization.rotation), result, words({"none", "hadamard"}), word,
       "hadamard: turns the residual stream and the heads' values by random-sign Hadamard matrices, merged\n"
       "into the weights. The function stays the same, outliers go, and every loader takes the result; a\n"
       "tied head is untied."},
      {GPTQ_KEY(quantization.best_of), result, any(), settings,
       "Further candidates for every layer, each a text of settings such as \"damp_percent=0.01\" or\n"
       "\"scale_search=mse mse_norm=2.4\"; each row keeps the candidate with the least exact loss."},
      {GPTQ_KEY(quantization.include), result, any(), pattern,
       "Layers to quantize: module names (full, or inside the block) or regexes found in the full name.\n"
       "Empty: every linear of the blocks; lm_head is not one of them."},
      {GPTQ_KEY(quantization.exclude), result, any(), pattern,
       "Layers to keep as they are, in the same form; wins over include."},
      {GPTQ_KEY(quantization.modules_in_block_to_quantize), result, any(), module,
       "Layers to quantize, by their names inside a block: [self_attn.q_proj, mlp.down_proj]; a list of\n"
       "lists, as in other programs' configurations, means the same. Empty: all."},
      {GPTQ_KEY(quantization.num_layers), result, at_least(0), word,
       "Only the first so many transformer blocks are quantized; 0: all."},
      {GPTQ_KEY(quantization.lm_head), result, any(), word,
       "Quantize the head too. Refused where the model ties it to the embedding, which loaders keep as it\n"
       "is (with rotation: hadamard it is untied, and may be quantized)."},
      {GPTQ_KEY(quantization.mlp_bits), result, this_or(0, bits()), word,
       "bits of the MLP's layers; 0: no other ones than bits."},
      {GPTQ_KEY(quantization.mlp_group_size), result, this_or(0, this_or_at_least(-1, 1)), word,
       "group_size of the MLP's layers; 0: no other one than group_size."},
      {GPTQ_KEY(quantization.module_bits), result, bits(), module,
       "bits of single modules: {down_proj: 8, model.layers.0.self_attn.v_proj: 6}. A name is a module's "
       "full\n"
       "name, its name inside the block, or the last part of either; the longest that fits wins, and wins\n"
       "over mlp_bits."},
      {GPTQ_KEY(quantization.dynamic), result, any(), pattern,
       "Rules for single layers, as GPTQModel has them: {\"REGEX\": {bits: 8, group_size: 32}}. A regex is\n"
       "matched from the start of a layer's full name; the first rule that matches a layer decides, over "
       "all\n"
       "keys above. \"-:REGEX\" keeps the layers as they are; \"+:REGEX\" is the same as \"REGEX\". Layers "
       "that\n"
       "vLLM joins (q, k and v; gate and up) should have the same values."},
  };
}

}  // namespace gptq
