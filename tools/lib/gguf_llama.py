"""Llama's architecture in GGUF, with a byte-level BPE tokenizer, as SmolLM2 comes: config, weights, tokenizer."""

from gguf_model import ConversionError, huggingface_name, kind_of, shortest_float, write_weights

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
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
# Splits of the text before BPE, by the name GGUF gives them: does it split every digit off?
PRETOKENIZERS = {"smollm": True, "gpt-2": False}
CONTROL_TOKEN, USER_DEFINED_TOKEN = 3, 4


def make_config(meta, tensor_names):
    hidden, heads = meta.hyperparameter("embedding_length"), meta.hyperparameter("attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta.get("tokenizer.ggml.padding_token_id"),
        "head_dim": meta.get("llama.attention.key_length", hidden // heads),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.hyperparameter("feed_forward_length"),
        "max_position_embeddings": meta.hyperparameter("context_length"),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": meta.hyperparameter("block_count"),
        "num_key_value_heads": meta.get("llama.attention.head_count_kv", heads),
        "rms_norm_eps": shortest_float(meta.hyperparameter("attention.layer_norm_rms_epsilon")),
        "rope_scaling": None,
        "rope_theta": shortest_float(meta.get("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in tensor_names,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(meta.require("tokenizer.ggml.tokens")),
    }


def rotate_half_rows(weight, heads):
    """(heads·head_dim, in): from the GGUF's interleaved rotary pairs back to Hugging Face's two halves per head."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_model(reader, config, path):
    names = [huggingface_name(tensor.name, MODEL_TENSORS, BLOCK_TENSORS) for tensor in reader.tensors]
    expected = 3 + len(BLOCK_TENSORS) * config["num_hidden_layers"] - config["tie_word_embeddings"]
    if len(set(names)) != expected:
        raise ConversionError(f"the GGUF has {len(set(names))} tensors, a Llama of {config['num_hidden_layers']} blocks "
                              f"has {expected}")
    heads = {"attn_q.weight": config["num_attention_heads"], "attn_k.weight": config["num_key_value_heads"]}

    def prepare(tensor, weight):
        kind = kind_of(tensor.name)
        return rotate_half_rows(weight, heads[kind]) if kind in heads else weight

    write_weights(reader.tensors, names, prepare, path)


def make_tokenizer(meta):
    """A fast tokenizer from the GGUF's vocabulary and merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    model, split = meta.require("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or split not in PRETOKENIZERS:
        raise ConversionError(f"the GGUF's tokenizer is {model}/{split}; known are gpt2 with "
                              f"{', '.join(sorted(PRETOKENIZERS))}")
    tokens, types = meta.require("tokenizer.ggml.tokens"), meta.require("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in meta.require("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        if PRETOKENIZERS[split] else byte_level)
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types):
        if kind == CONTROL_TOKEN:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED_TOKEN:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    return tokenizer
