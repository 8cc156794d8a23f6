#!/usr/bin/env python3
"""Turns a compressed-tensors model (llm-compressor's output) into a plain float32 model that any evaluator reads.

The weights are dequantized by transformers and compressed-tensors themselves.
"""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import CompressedTensorsConfig


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    packed = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False))
    plain = AutoModelForCausalLM.from_config(packed.config, dtype=torch.float32)
    values = packed.state_dict()
    plain.load_state_dict({name: values[name].float() for name in plain.state_dict()})
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    plain.save_pretrained(args.output)
    AutoTokenizer.from_pretrained(args.model).save_pretrained(args.output)


if __name__ == "__main__":
    main()
