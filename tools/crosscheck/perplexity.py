#!/usr/bin/env python3
"""Perplexity of a model as another system understands it, over the windows of an evaluation file.

A GPTQ model is loaded by GPTQModel or transformers (an ordinary one by `--loader source`: transformers, in float32). Its quantized layers are dequantized by the loader's own code into
float32, so that the figure tells how the bytes were understood rather than how a 16-bit kernel rounds; that the kernels
run and agree is checked on the first tokens. Prints one JSON line: {"loader", "perplexity", "tokens", "kernel_difference"}.
"""

import argparse
import json
import math
import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling the kernels takes longer than running them here

import h5py  # noqa: E402
import torch  # noqa: E402

KERNEL_TOKENS = 128


def load_with_gptqmodel(path):
    from gptqmodel import BACKEND, GPTQModel

    return GPTQModel.load(path, backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model


def load_with_transformers(path):
    from transformers import AutoModelForCausalLM, GPTQConfig

    with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
        bits = json.load(file)["quantization_config"]["bits"]
    # The kernel for every group size: the default for CPUs refuses a ragged last group.
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float16, device_map="cpu", quantization_config=GPTQConfig(bits=bits, backend="gptq_torch"))


def load_source(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


LOADERS = {"gptqmodel": load_with_gptqmodel, "transformers": load_with_transformers, "source": load_source}


def dequantize_layers(model):
    """Replaces every quantized layer by a float32 Linear of the weights its own class dequantizes; returns how many."""
    quantized = [(name, module) for name, module in model.named_modules() if hasattr(module, "dequantize_weight")]
    for name, module in quantized:
        weight = module.dequantize_weight().detach().T[: module.out_features, : module.in_features].float().contiguous()
        linear = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            linear.bias = torch.nn.Parameter(module.bias.detach().float(), requires_grad=False)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, linear)
    for tensor in [*model.parameters(), *model.buffers()]:  # transformers refuses model.float() on quantized models
        if tensor.is_floating_point():
            tensor.data = tensor.data.float()
    return len(quantized)


def negative_log_likelihood(model, ids):
    """Sum over the window's predicted tokens, from float32 logits."""
    logits = model(torch.tensor(ids, dtype=torch.long)[None]).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:], dtype=torch.long), reduction="sum").item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loader", choices=sorted(LOADERS), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="evaluation file (docs/calibration-format.md)")
    parser.add_argument("--windows", type=int, help="only the file's first (all)")
    args = parser.parse_args()
    with h5py.File(args.data) as file:
        windows = [row[:length].tolist() for row, length in zip(file["input_ids"][: args.windows], file["lengths"][: args.windows])]
    model = LOADERS[args.loader](args.model).eval()
    with torch.no_grad():
        by_kernel = negative_log_likelihood(model, windows[0][:KERNEL_TOKENS])
        if (dequantize_layers(model) == 0) != (args.loader == "source"):
            sys.exit(f"{args.loader} loaded {args.model} {'with' if args.loader == 'source' else 'without'} a quantized layer")
        by_weights = negative_log_likelihood(model, windows[0][:KERNEL_TOKENS])
        total = sum(negative_log_likelihood(model, window) for window in windows)
    tokens = sum(len(window) - 1 for window in windows)
    print(json.dumps({"loader": args.loader, "perplexity": math.exp(total / tokens), "tokens": tokens,
                      "kernel_difference": abs(by_kernel - by_weights) / by_weights}), flush=True)


if __name__ == "__main__":
    main()
