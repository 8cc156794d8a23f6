#!/usr/bin/env python3
"""GPTQModel on the CPU, from our calibration file. One process: load, quantize, save.

Its default recipe, or with --options any further keys of its QuantizeConfig as JSON: '{"mse": 2.4}'.

The last line of stdout is JSON with the seconds of the parts.
"""

import argparse
import json
import os
import time

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its thread pool asks for more workers than small machines have
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from gptqmodel import GPTQModel, QuantizeConfig  # noqa: E402

from calibration_samples import read_samples  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON")
    args = parser.parse_args()
    start = time.perf_counter()
    config = QuantizeConfig(bits=args.bits, group_size=args.group_size, **args.options)
    model = GPTQModel.load(args.model, config, device="cpu")
    samples = [{"input_ids": [ids], "attention_mask": [[1] * len(ids)]} for ids in read_samples(args.calibration)]
    loaded = time.perf_counter()
    model.quantize(samples)
    quantized = time.perf_counter()
    model.save(args.output)
    saved = time.perf_counter()
    print(json.dumps({"load_seconds": loaded - start, "quantize_seconds": quantized - loaded,
                      "save_seconds": saved - quantized}), flush=True)


if __name__ == "__main__":
    main()
