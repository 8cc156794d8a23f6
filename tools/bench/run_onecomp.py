#!/usr/bin/env python3
"""OneComp's GPTQ with QEP on the CPU, from our calibration file. One process: load, quantize, save.

--options: further keys of its GPTQ and QEPConfig as JSON: '{"gptq": {"mse": true}, "qep": {"perccorr": 0.5}}'.
The quantized model goes to --output and its dequantized weights, for any evaluator, to OUTPUT/plain. The last line of
stdout is JSON with the seconds of the parts.
"""

import argparse
import json
import os
import time

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import onecomp.qep._quantize_with_qep_arch as qep  # noqa: E402
import torch  # noqa: E402
from onecomp import GPTQ, CalibrationConfig, ModelConfig, QEPConfig, Runner, setup_logger  # noqa: E402

from calibration_samples import read_samples  # noqa: E402


def give_samples(samples):
    """It takes text and cuts it itself; this hands it the very tokens that the other systems get."""
    ids = torch.tensor(samples)
    qep.prepare_calibration_dataset = lambda **_: {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON")
    args = parser.parse_args()
    setup_logger()
    start = time.perf_counter()
    samples = read_samples(args.calibration)
    give_samples(samples)
    runner = Runner(
        model_config=ModelConfig(path=args.model, dtype="bfloat16", device="cpu"),
        quantizer=GPTQ(wbits=args.bits, groupsize=args.group_size, **args.options.get("gptq", {})),
        calibration_config=CalibrationConfig(max_length=len(samples[0]), num_calibration_samples=len(samples)),
        qep=True, qep_config=QEPConfig(**args.options.get("qep", {})))
    loaded = time.perf_counter()
    runner.run()
    quantized = time.perf_counter()
    runner.save_quantized_model(args.output)
    saved = time.perf_counter()
    print(json.dumps({"load_seconds": loaded - start, "quantize_seconds": quantized - loaded,
                      "save_seconds": saved - quantized}), flush=True)
    runner.save_dequantized_model(f"{args.output}/plain")


if __name__ == "__main__":
    main()
