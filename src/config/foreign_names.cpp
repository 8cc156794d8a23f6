#include "config/foreign_names.h"

#include <algorithm>
#include <array>

#include "config/nearest.h"

namespace gptq {
namespace {

constexpr std::string_view kAtPreparation =
    "it is chosen when the calibration file is made: tools/prepare_calibration.py";
constexpr std::string_view kNotABatch =
    "there is no such key: samples are computed one by one or in chunks (calibration.chunk_tokens), with the "
    "same result on any number of ranks and threads";
constexpr std::string_view kOneWidth =
    "there is no such key: the solve works on 128 columns at a time, which changes its speed and no result";
constexpr std::string_view kByArchitecture =
    "there is no such key: the model's architecture says where its blocks are";
constexpr std::string_view kAlwaysPacked =
    "there is no such key: the output is packed into int32 words as loaders expect";
constexpr std::string_view kByMpi = "there is no such key: start the job on more ranks, as in mpirun -n 8";

// In the order of the option table in README.md.
constexpr std::array kForeignNames = {
    // bits and grids
    ForeignName{"wbits", "quantization.bits", ""},
    ForeignName{"w_bit", "quantization.bits", ""},
    ForeignName{"num_bits", "quantization.bits", ""},
    ForeignName{"groupsize", "quantization.group_size", ""},
    ForeignName{"q_group_size", "quantization.group_size", ""},
    ForeignName{"symmetric", "quantization.sym", ""},
    ForeignName{"perchannel", "quantization.per_channel", ""},
    ForeignName{"strategy", "quantization.group_size",
                "group is group_size >= 1, channel is group_size: -1, tensor is per_channel: false"},
    ForeignName{"nearest", "quantization.method", "method: rtn rounds to nearest"},
    ForeignName{"mock_quantization", "", "`gptq-hpc plan` checks a job without computing"},
    // the solve
    ForeignName{"damp", "quantization.damp_percent", ""},
    ForeignName{"percdamp", "quantization.damp_percent", ""},
    ForeignName{"dampening_frac", "quantization.damp_percent", ""},
    ForeignName{"actorder", "quantization.desc_act", ""},
    ForeignName{"act_order", "quantization.desc_act", ""},
    ForeignName{"gar", "quantization.act_group_aware", ""},
    ForeignName{"sequential", "quantization.true_sequential", ""},
    ForeignName{"propagate_error", "quantization.true_sequential", ""},
    ForeignName{"sequential_update", "quantization.true_sequential", ""},
    ForeignName{"blocksize", "", kOneWidth},
    ForeignName{"block_size", "", kOneWidth},
    ForeignName{"batched_quantization", "",
                "there is no such key: layers that share an input are always solved together"},
    ForeignName{"hessian", "calibration.chunk_tokens",
                "sums are exact, so the size of a chunk is all there is to choose"},
    ForeignName{"chunk_size", "calibration.chunk_tokens", ""},
    ForeignName{"staging_dtype", "compute.dtype", ""},
    ForeignName{"use_cuda_fp16", "compute.dtype", ""},
    // scales
    ForeignName{"mse", "quantization.scale_search", "with mse_norm for the exponent"},
    ForeignName{"observer", "quantization.scale_search", ""},
    ForeignName{"maxshrink", "quantization.max_shrink", ""},
    ForeignName{"q_grid", "quantization.mse_grid", ""},
    ForeignName{"grid", "quantization.mse_grid", ""},
    ForeignName{"q_norm", "quantization.mse_norm", ""},
    ForeignName{"norm", "quantization.mse_norm", ""},
    // beyond plain GPTQ
    ForeignName{"gptaq", "quantization.correction_alpha", ""},
    ForeignName{"foem", "quantization.correction_alpha", ""},
    ForeignName{"v2", "quantization.correction_alpha", ""},
    ForeignName{"qep", "quantization.correction_alpha", ""},
    ForeignName{"perccorr", "quantization.correction_alpha", ""},
    ForeignName{"rotated", "quantization.rotation", ""},
    // which layers
    ForeignName{"targets", "quantization.include", ""},
    ForeignName{"include_layer_names", "quantization.include", ""},
    ForeignName{"include_layer_keywords", "quantization.include", ""},
    ForeignName{"ignore", "quantization.exclude", ""},
    ForeignName{"modules_to_not_convert", "quantization.exclude", ""},
    ForeignName{"exclude_layer_names", "quantization.exclude", ""},
    ForeignName{"exclude_layer_keywords", "quantization.exclude", ""},
    ForeignName{"inside_layer_modules", "quantization.modules_in_block_to_quantize", ""},
    ForeignName{"config_groups", "quantization.dynamic", ""},
    ForeignName{"scheme", "quantization.bits", ""},
    ForeignName{"mlp_wbits", "quantization.mlp_bits", ""},
    ForeignName{"mlp_groupsize", "quantization.mlp_group_size", ""},
    ForeignName{"module_wbits", "quantization.module_bits", ""},
    ForeignName{"block_name_to_quantize", "", kByArchitecture},
    ForeignName{"module_name_preceding_first_block", "", kByArchitecture},
    ForeignName{"kv_cache_scheme", "", "there is no such key: weights alone are quantized"},
    // calibration
    ForeignName{"nsamples", "calibration.num_samples", ""},
    ForeignName{"num_calibration_samples", "calibration.num_samples", ""},
    ForeignName{"dataset", "calibration.path", ""},
    ForeignName{"calibration_dataset", "calibration.path", ""},
    ForeignName{"calibration_data_min_length", "calibration.min_length", ""},
    ForeignName{"calibration_sort", "calibration.order", ""},
    ForeignName{"pad_token_id", "calibration.pad_token", ""},
    ForeignName{"batch_size", "", kNotABatch},
    ForeignName{"micro_batch", "", kNotABatch},
    ForeignName{"calibration_concat_size", "",
                "tools/prepare_calibration.py --pack joins rows when the file is made"},
    ForeignName{"concatenate_data", "",
                "tools/prepare_calibration.py --pack joins rows when the file is made"},
    ForeignName{"calibration_concat_separator", "", kAtPreparation},
    ForeignName{"max_length", "", kAtPreparation},
    ForeignName{"model_seqlen", "", kAtPreparation},
    ForeignName{"seqlen", "", kAtPreparation},
    ForeignName{"seq_len", "", kAtPreparation},
    ForeignName{"max_seq_length", "", kAtPreparation},
    ForeignName{"pad_to_max_length", "", kAtPreparation},
    ForeignName{"shuffle_calibration_samples", "", kAtPreparation},
    ForeignName{"tokenizer", "", kAtPreparation},
    ForeignName{"text_key", "", kAtPreparation},
    ForeignName{"seed", "", kAtPreparation},
    // fallbacks
    ForeignName{"max_fallbacks", "fallback.max_layers", ""},
    ForeignName{"threshold", "fallback.min_tokens", ""},
    ForeignName{"min_tokens_per_module", "fallback.min_tokens", ""},
    // model and output
    ForeignName{"model_path", "model.path", ""},
    ForeignName{"model_id", "model.path", ""},
    ForeignName{"model_name_or_path", "model.path", ""},
    ForeignName{"output_dir", "output.path", ""},
    ForeignName{"save_dir", "output.path", ""},
    ForeignName{"save", "output.path", ""},
    ForeignName{"quant_path", "output.path", ""},
    ForeignName{"format", "output.checkpoint_format", ""},
    ForeignName{"max_shard_size", "output.max_shard_bytes", ""},
    ForeignName{"pack_dtype", "", kAlwaysPacked},
    ForeignName{"pack_impl", "", kAlwaysPacked},
    ForeignName{"bitpack_on_quantize", "", kAlwaysPacked},
    ForeignName{"save_compressed", "", kAlwaysPacked},
    ForeignName{"new_eval", "eval.data", ""},
    // where it is computed
    ForeignName{"device", "compute.backend", ""},
    ForeignName{"num_threads", "compute.threads", ""},
    ForeignName{"offload_to_disk", "compute.activations", ""},
    ForeignName{"offload_hessians", "compute.activations", ""},
    ForeignName{"calibration_data_device", "compute.activations", ""},
    ForeignName{"cache_examples_on_gpu", "compute.activations", ""},
    ForeignName{"offload_to_disk_path", "compute.spill_path", ""},
    ForeignName{"auto_forward_data_parallel", "", kByMpi},
    ForeignName{"compute_device_filter", "", kByMpi},
};

}  // namespace

const ForeignName* find_foreign_name(const std::string& name) {
  const std::string wanted = normalized(name);
  const auto found = std::find_if(kForeignNames.begin(), kForeignNames.end(),
                                  [&](const ForeignName& foreign) { return foreign.name == wanted; });
  return found == kForeignNames.end() ? nullptr : &*found;
}

}  // namespace gptq
