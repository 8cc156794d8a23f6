#!/usr/bin/env python3
"""Makes a second model from the demonstration model: the same network with its linears off the 4-bit grid they came on.

The demonstration model's linears were stored as 16 levels per 32 columns, which a method might profit from without being
good. This adds to every weight noise that is uniform over one step of its own 32 columns' grid, so that weights
are continuous again. The result is a little worse as a language model than what it is made from, and is measured as the
source it then is.

    tools/bench/dither_model.py --model DIR --output DIR [--seed 0]
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from gguf_model import to_bf16_bytes  # noqa: E402

BLOCK_COLUMNS, LEVELS = 32, 16


class NotOnGrid(Exception):
    """The model's linears are not 16 levels per 32 columns; the message names one."""


def dithered(name, weight, generator):
    """(rows, columns) float32 on the grid → the same with noise uniform over a step of each 32 columns."""
    blocks = weight.reshape(-1, BLOCK_COLUMNS)
    ordered = np.sort(blocks, axis=1)
    distinct = 1 + np.count_nonzero(np.diff(ordered, axis=1), axis=1)
    if distinct.max() > LEVELS:
        raise NotOnGrid(f"{name} has {distinct.max()} values in {BLOCK_COLUMNS} columns, not at most {LEVELS}: "
                        "nothing here to take off a grid")
    step = (ordered[:, -1:] - ordered[:, :1]) / (LEVELS - 1)  # a block's ends are its grid's ends
    noise = generator.random(blocks.shape, dtype=np.float32) - np.float32(0.5)
    return (blocks + step * noise).reshape(weight.shape)


def is_linear(name, entry):
    return name.endswith("_proj.weight") and len(entry["shape"]) == 2


def convert(source, target, generator):
    """Copies the safetensors file with every linear dithered, in the order in which they lie."""
    with open(source, "rb") as file, open(target, "wb") as out:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        out.write(length + header)
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            raw = file.read(end - begin)
            if is_linear(name, entry):
                weight = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(entry["shape"])
                raw = to_bf16_bytes(dithered(name, weight, generator))
            out.write(raw)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if (args.output / "model.safetensors").is_file():
        print(f"{args.output} is complete")
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    for path in args.model.iterdir():
        if path.suffix == ".json":
            shutil.copy(path, args.output)
    partial = args.output / "model.partial"
    convert(args.model / "model.safetensors", partial, np.random.default_rng(args.seed))
    partial.replace(args.output / "model.safetensors")
    print(f"{args.output}: made")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NotOnGrid as error:
        print(f"dither_model: {error}", file=sys.stderr)
        sys.exit(2)
