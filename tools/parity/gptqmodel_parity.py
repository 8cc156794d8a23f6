#!/usr/bin/env python3
"""Our options beside GPTQModel's own functions, on one small random layer after the other.

For every case the same weights and inputs go through GPTQModel's GPTQ class and, by build/cpu/quantize_layer, through our
kernels, both on the CPU. A table row tells the shares of equal scales (as fp16) and codes, and both exact losses,
tr((W-Q)H(W-Q)^T) / tr(WHW^T) in float64 of the weights as they would be stored. Codes differ where a scale's rounding to fp16,
which we do before codes are chosen and GPTQModel after, moves a weight across the middle of two steps, and from there on
along the row. Fails where the loss of a case is more than LOSS_TOLERANCE away; or, of a case in OURS_IS_BETTER, not below theirs.

Then each number of bits in every checkpoint format that holds it: GPTQModel's own layer must unpack our codes and zeros, bit
for bit. Run by tools/parity.sh.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gptqmodel.nn_modules.qlinear.torch import TorchLinear  # noqa: E402
from gptqmodel.quantization import FORMAT, QuantizeConfig  # noqa: E402
from gptqmodel.quantization.gptq import GPTQ  # noqa: E402
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module  # noqa: E402

LOSS_TOLERANCE = 0.02
OUT, COLUMNS, TOKENS = 128, 512, 2048

# Ours: keys of the section `quantization`. Where GPTQModel knows them under the same name they are passed on.
PLAIN = {"bits": 4, "group_size": 128, "sym": True, "desc_act": False, "act_group_aware": False, "static_groups": False,
         "damp_percent": 0.05, "damp_auto_increment": 0.01, "scale_search": "minmax"}
MSE = {"scale_search": "mse", "mse_norm": 2.4, "mse_grid": 100, "max_shrink": 0.8}

CASES = [
    ("natural order", {}),
    ("act_group_aware", {"act_group_aware": True}),
    ("desc_act", {"desc_act": True}),
    ("static_groups", {"static_groups": True}),
    ("desc_act, static_groups", {"desc_act": True, "static_groups": True}),
    ("act_group_aware, static_groups", {"act_group_aware": True, "static_groups": True}),
    ("asymmetric", {"sym": False}),
    ("asymmetric, act_group_aware", {"sym": False, "act_group_aware": True}),
    ("group -1", {"group_size": -1}),
    ("group -1, asymmetric", {"group_size": -1, "sym": False}),
    ("group -1, desc_act", {"group_size": -1, "desc_act": True}),
    ("group 64", {"group_size": 64}),
    ("group 256", {"group_size": 256}),
    ("mse 2.4", MSE),
    ("mse 2.4, asymmetric", {**MSE, "sym": False}),
    ("mse 2.4, desc_act", {**MSE, "desc_act": True}),
    ("mse 2.4, act_group_aware", {**MSE, "act_group_aware": True}),
    ("mse 2.4, group -1", {**MSE, "group_size": -1}),
    ("mse 2.4, 3 bits", {**MSE, "bits": 3}),
    ("2 bits", {"bits": 2}),
    ("3 bits", {"bits": 3}),
    ("5 bits", {"bits": 5}),
    ("6 bits", {"bits": 6}),
    ("7 bits", {"bits": 7}),
    ("8 bits", {"bits": 8}),
    ("damp 0.01", {"damp_percent": 0.01}),
    ("singular H, damp increments", {"damp_percent": 1e-17, "singular": True}),
    ("trits", {"bits": 2, "trits": True}),
    ("per tensor", {"group_size": -1, "per_channel": False}),
    ("per tensor, mse 2.4", {**MSE, "group_size": -1, "per_channel": False}),
    ("mse 2.4, 2 bits, asymmetric", {**MSE, "bits": 2, "sym": False}),
    ("mse 2.4, grid 600", {**MSE, "mse_grid": 600}),
    ("mse 2.4, max_shrink 0.3", {**MSE, "max_shrink": 0.3}),
]

# With both, GPTQModel 7.7 looks up a group's scale by its place in the visiting order instead of by its columns, so columns are
# quantized with the scale that was found for another group.
OURS_IS_BETTER = {"act_group_aware, static_groups"}


def random_layer(seed, singular):
    """Weights (out, columns), and correlated inputs whose columns' magnitudes spread widely."""
    random = np.random.default_rng(seed)
    weight = (0.05 * random.standard_normal((OUT, COLUMNS))).astype(np.float32)
    tokens = COLUMNS // 4 if singular else TOKENS
    noise = random.standard_normal((tokens, COLUMNS)) + 0.7 * random.standard_normal((tokens, 1))
    inputs = noise * np.exp(random.standard_normal(COLUMNS))
    return weight, inputs.astype(np.float32)


def ours(program, folder, weight, inputs, options):
    paths = {name: os.path.join(folder, name) for name in ("weight.f32", "input.f32", "out.json")}
    weight.tofile(paths["weight.f32"])
    inputs.tofile(paths["input.f32"])
    settings = [f"{key}={str(value).lower()}" for key, value in options.items()]
    subprocess.run([program, "--weight", paths["weight.f32"], "--input", paths["input.f32"], "--columns",
                    str(weight.shape[1]), "--json", paths["out.json"], *settings], check=True)
    with open(paths["out.json"], encoding="utf-8") as file:
        found = json.load(file)
    rows = weight.shape[0]
    found["codes"] = np.array(found["codes"]).reshape(weight.shape)
    for key in ("scales", "zeros"):
        found[key] = np.array(found[key]).reshape(rows, -1)
    found["g_idx"] = np.array(found["g_idx"])
    return found


def theirs(weight, inputs, options):
    """GPTQModel's codes, scales, zeros, g_idx and damping."""
    trits = options.get("trits", False)
    shared = {key: options[key] for key in ("bits", "group_size", "sym", "desc_act", "act_group_aware", "static_groups",
                                            "damp_percent", "damp_auto_increment")}
    config = QuantizeConfig(**shared, mse=options.get("mse_norm", 0.0), fallback=None)
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = torch.from_numpy(weight.copy())
    gptq = GPTQ(linear, qcfg=config)
    gptq.quantizer.configure(perchannel=options.get("per_channel", True), grid=options.get("mse_grid", 100),
                             maxshrink=options.get("max_shrink", 0.8), trits=trits)
    gptq.add_batch(torch.from_numpy(inputs)[None], torch.zeros(1))
    quantized, scales, zeros, g_idx, _, _, damp, _ = gptq.quantize()
    scales, zeros, g_idx = (tensor.double().numpy() for tensor in (scales, zeros, g_idx))
    g_idx = g_idx.astype(int)
    if trits:
        zeros = np.ones_like(zeros)  # its "zero" is the lowest level there
    codes = np.rint(quantized.double().numpy() / scales[:, g_idx]) + zeros[:, g_idx]
    return {"codes": codes.astype(int), "scales": scales, "zeros": zeros, "g_idx": g_idx, "damp_percent": damp}


def loss(weight, inputs, result):
    scales = result["scales"].astype(np.float16).astype(np.float64)
    quantized = scales[:, result["g_idx"]] * (result["codes"] - result["zeros"][:, result["g_idx"]])
    x = inputs.astype(np.float64)
    return ((x @ (weight - quantized).T) ** 2).sum() / ((x @ weight.T.astype(np.float64)) ** 2).sum()


def compare_case(program, folder, number, name, changes):
    """Prints a row; returns whether the losses agree."""
    options = {**PLAIN, **changes}
    weight, inputs = random_layer(number, options.pop("singular", False))
    a, b = ours(program, folder, weight, inputs, options), theirs(weight, inputs, options)
    scales = np.mean(a["scales"].astype(np.float16) == b["scales"].astype(np.float16))
    zeros = np.mean(a["zeros"] == b["zeros"])
    codes = np.mean(a["codes"] == b["codes"])
    groups = np.array_equal(a["g_idx"], b["g_idx"])
    a_loss, b_loss = loss(weight, inputs, a), loss(weight, inputs, b)
    agrees = a_loss < b_loss if name in OURS_IS_BETTER else abs(a_loss / b_loss - 1) <= LOSS_TOLERANCE
    agrees = agrees and groups and abs(a["damp_percent"] - b["damp_percent"]) < 1e-9
    print(f"| {name} | {scales:.2%} | {zeros:.2%} | {codes:.2%} | {a_loss:.5e} | {b_loss:.5e} | {a_loss / b_loss - 1:+.2%} "
          f"|{'' if agrees else ' DIFFERS'}{'' if groups else ' (g_idx)'}", flush=True)
    return agrees


def unpacked_by_gptqmodel(found, bits, group_size, name, shape):
    """What GPTQModel's layer makes of the words, with scales of one: code - zero as (out, in)."""
    rows, columns = shape
    layer = TorchLinear(bits=bits, group_size=group_size, sym=False, desc_act=False, in_features=columns, out_features=rows,
                        bias=False, format=FORMAT(name))
    for key in ("qweight", "qzeros"):
        words = torch.tensor(found["packed"][name][key], dtype=torch.int32)
        setattr(layer, key, words.reshape(getattr(layer, key).shape))
    layer.scales = torch.ones(layer.scales.shape)
    layer.g_idx = torch.tensor(found["g_idx"], dtype=torch.int32)
    if name == "gptq":
        convert_gptq_v1_to_v2_format_module(layer, bits=bits, pack_dtype=torch.int32)
    layer.post_init()
    return layer.eval().dequantize_weight().detach().T.numpy()


def compare_words(program, folder, bits):
    """Prints a row for every format; returns whether all were understood."""
    weight, inputs = random_layer(100 + bits, False)
    options = {**PLAIN, "bits": bits, "sym": False}
    found = ours(program, folder, weight, inputs, options)
    expected = found["codes"] - found["zeros"][:, found["g_idx"]]
    good = True
    for name in found["packed"]:
        same = np.array_equal(unpacked_by_gptqmodel(found, bits, options["group_size"], name, weight.shape), expected)
        print(f"| {bits} bits | {name} | {'the same' if same else 'DIFFERENT'} |", flush=True)
        good = good and same
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="build/cpu/quantize_layer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print("| options | equal scales | equal zeros | equal codes | our loss | GPTQModel's | difference |")
        print("|---|---|---|---|---|---|---|")
        agree = [compare_case(args.program, folder, number, *case) for number, case in enumerate(CASES)]
        print("\n| packed | format | GPTQModel unpacks |\n|---|---|---|")
        understood = [compare_words(args.program, folder, bits) for bits in range(2, 9)]
    return 0 if all(agree) and all(understood) else 1


if __name__ == "__main__":
    sys.exit(main())
