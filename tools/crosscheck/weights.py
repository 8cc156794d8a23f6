#!/usr/bin/env python3
"""Whether GPTQModel reads out of a packed model the very weights that `output.format: dequantized` writes.

    weights.py PACKED DEQUANTIZED

Loads PACKED in GPTQModel on the CPU; each quantized layer is dequantized by GPTQModel's own code, with the scales as float32 so
that scale * (code - zero) is exact, and rounded to the type of DEQUANTIZED, where it must have the same bits. Prints one
line; exit code 1 where a layer differs.
"""

import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling the kernels takes longer than running them here

import torch  # noqa: E402
from gptqmodel import BACKEND, GPTQModel  # noqa: E402
from safetensors import safe_open  # noqa: E402


def weights_of(directory):
    """Name → tensor of an ordinary model's files."""
    tensors = {}
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".safetensors"):
            continue
        with safe_open(os.path.join(directory, name), framework="pt") as file:
            tensors.update({key: file.get_tensor(key) for key in file.keys()})
    return tensors


def as_integers(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def main():
    packed, dequantized = sys.argv[1:]
    expected = weights_of(dequantized)
    model = GPTQModel.load(packed, backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model
    layers = [(name, module) for name, module in model.named_modules() if hasattr(module, "dequantize_weight")]
    if not layers:
        sys.exit(f"GPTQModel loaded {packed} without a quantized layer")
    differing, weights, kinds = [], 0, set()
    for name, module in layers:
        ours = expected[name + ".weight"]
        module.scales = module.scales.float()
        theirs = module.dequantize_weight().detach().T[: module.out_features, : module.in_features].to(ours.dtype)
        weights += ours.numel()
        kinds.add(f"{module.bits} bits{' in planes' if module.planar else ''}")
        different = int((as_integers(theirs) != as_integers(ours)).sum())
        if different:
            differing.append(f"{name}: {different} of {ours.numel()}")
    print(f"{len(layers)} layers ({', '.join(sorted(kinds))}), {weights} weights: "
          f"{f'{len(differing)} layers DIFFER, {differing[0]} first' if differing else 'the same bits'}", flush=True)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
