"""Gemma 3 (text) in GGUF: config, weights, tokenizer.

A GGUF says less than config.json: that every sixth block attends to everything, the rotary base of the others, and the
scores' scale are in llama.cpp's code (its model file of gemma3), not in the file, unless newer writers put them there.
"""

from gguf_model import ConversionError, huggingface_name, kind_of, shortest_float, special_tokens, write_weights

MODEL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK_TENSORS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}
FULL_ATTENTION_EVERY = 6
LOCAL_ROPE_BASE = 10000.0
BLOCKS_OF_27B = 62  # the only size whose scores are scaled by hidden_size / heads rather than by a head's size


def layer_types(blocks, every):
    return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(blocks)]


def rope_scaling(meta):
    """config.json's rope_scaling: it holds for the blocks that attend to everything."""
    kind = meta.optional_hyperparameter("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise ConversionError(f"the GGUF's rope.scaling.type is {kind}; Gemma 3 has linear or none")
    return {"rope_type": "linear", "factor": shortest_float(meta.hyperparameter("rope.scaling.factor"))}


def make_config(meta, tensor_names):
    hidden, heads = meta.hyperparameter("embedding_length"), meta.hyperparameter("attention.head_count")
    blocks, head_dim = meta.hyperparameter("block_count"), meta.hyperparameter("attention.key_length")
    if meta.optional_hyperparameter("attention.value_length", head_dim) != head_dim:
        raise ConversionError("the GGUF's heads have keys and values of different sizes; Gemma 3's have one")
    every = meta.optional_hyperparameter("attention.sliding_window_pattern", FULL_ATTENTION_EVERY)
    if not isinstance(every, int):
        raise ConversionError(f"the GGUF's attention.sliding_window_pattern is {every}; expected a number of blocks")
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta.get("tokenizer.ggml.padding_token_id"),
        "head_dim": head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hidden,
        "intermediate_size": meta.hyperparameter("feed_forward_length"),
        "layer_types": layer_types(blocks, every),
        "max_position_embeddings": meta.hyperparameter("context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": blocks,
        "num_key_value_heads": meta.hyperparameter("attention.head_count_kv"),
        "query_pre_attn_scalar": hidden // heads if blocks == BLOCKS_OF_27B else head_dim,
        "rms_norm_eps": shortest_float(meta.hyperparameter("attention.layer_norm_rms_epsilon")),
        "rope_local_base_freq": shortest_float(meta.optional_hyperparameter("rope.freq_base_swa", LOCAL_ROPE_BASE)),
        "rope_scaling": rope_scaling(meta),
        "rope_theta": shortest_float(meta.hyperparameter("rope.freq_base")),
        "sliding_window": meta.hyperparameter("attention.sliding_window"),
        "tie_word_embeddings": "output.weight" not in tensor_names,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(meta.require("tokenizer.ggml.tokens")),
    }


def prepare(tensor, weight):
    """Gemma's norms multiply by weight + 1, and the GGUF holds that sum, in float32: its one is taken off again. Heads lie as
    in Hugging Face's files: this architecture's rotary pairs are halves in both."""
    return weight - 1 if kind_of(tensor.name).endswith("norm.weight") else weight


def write_model(reader, config, path):
    names = [huggingface_name(tensor.name, MODEL_TENSORS, BLOCK_TENSORS) for tensor in reader.tensors]
    expected = 3 + len(BLOCK_TENSORS) * config["num_hidden_layers"] - config["tie_word_embeddings"]
    if len(set(names)) != expected:
        raise ConversionError(f"the GGUF has {len(set(names))} tensors, a Gemma 3 of {config['num_hidden_layers']} blocks "
                              f"has {expected}")
    rows = {tensor.name: int(tensor.shape[-1]) for tensor in reader.tensors}["token_embd.weight"]
    if rows != config["vocab_size"]:
        raise ConversionError(f"the GGUF's embedding has {rows} rows for {config['vocab_size']} tokens")
    write_weights(reader.tensors, names, prepare, path)


def make_tokenizer(meta):
    """transformers' own conversion: it knows how Gemma's words of spaces are spelled and derives the merges, which a GGUF of
    a SentencePiece vocabulary leaves out, in the order of Gemma's own tokenizer.json."""
    from tokenizers.processors import TemplateProcessing
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

    model = meta.require("tokenizer.ggml.model")
    if model != "llama":
        raise ConversionError(f"the GGUF's tokenizer is {model}; Gemma 3 has SentencePiece's, which GGUF calls llama")
    found = {name: meta.get(f"tokenizer.{key}") for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()}
    tokenizer, _ = convert_gguf_tokenizer("gemma3", {name: value for name, value in found.items() if value is not None})
    if meta.get("tokenizer.ggml.add_bos_token", True):  # what llama.cpp does for this vocabulary where the key is absent
        word = special_tokens(meta)["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{word} $A", pair=f"{word} $A {word} $B", special_tokens=[(word, tokenizer.token_to_id(word))])
    return tokenizer
