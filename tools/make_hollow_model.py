#!/usr/bin/env python3
"""A model directory with a real model's shape and no weights, for planning: its safetensors file is all hole.

    tools/make_hollow_model.py --shape llama-70b --output /tmp/llama-70b
    gptq-hpc plan job.yaml --set model.path=/tmp/llama-70b --ranks 16 --ranks-per-node 8 --node-memory 1000

Takes no room on disk: the file's length is claimed, nothing is written behind the header.
"""

import argparse
import json
import struct
from pathlib import Path

SHAPES = {
    "llama-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32),
    "llama-70b": dict(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64),
    "llama-405b": dict(hidden_size=16384, intermediate_size=53248, num_hidden_layers=126, num_attention_heads=128),
}


def config_of(shape):
    return dict(SHAPES[shape], architectures=["LlamaForCausalLM"], model_type="llama", num_key_value_heads=8,
                vocab_size=128256, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
                tie_word_embeddings=False, torch_dtype="bfloat16", hidden_act="silu")


def tensors_of(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    block = {"input_layernorm": [hidden], "post_attention_layernorm": [hidden],
             "self_attn.q_proj": [hidden, hidden], "self_attn.k_proj": [key_value, hidden],
             "self_attn.v_proj": [key_value, hidden], "self_attn.o_proj": [hidden, hidden],
             "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden], "mlp.down_proj": [hidden, inner]}
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for index in range(config["num_hidden_layers"]):
        for name, shape in block.items():
            yield f"model.layers.{index}.{name}.weight", shape
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [config["vocab_size"], hidden]


def write_hollow(path, tensors):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        first, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--output", type=Path, required=True, help="directory to make")
    args = parser.parse_args()
    config = config_of(args.shape)
    args.output.mkdir(parents=True, exist_ok=True)
    write_hollow(args.output / "model.safetensors", tensors_of(config))
    (args.output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{args.output}: the shape of {args.shape}, without weights")


if __name__ == "__main__":
    main()
