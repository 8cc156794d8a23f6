#!/usr/bin/env python3
"""llm-compressor's GPTQModifier on the CPU, from our calibration file. One process: load, quantize, save.

Group size -1 is its strategy "channel". --options: further keys of a weight's quantization arguments as JSON
('{"observer": "mse"}').

The last line of stdout is JSON with the seconds of the parts.
"""

import argparse
import json
import os
import time

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from calibration_samples import read_samples  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON")
    args = parser.parse_args()
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    samples = read_samples(args.calibration)
    dataset = Dataset.from_dict({"input_ids": samples, "attention_mask": [[1] * len(ids) for ids in samples]})
    groups = {"strategy": "channel"} if args.group_size == -1 else {"strategy": "group", "group_size": args.group_size}
    recipe = GPTQModifier(ignore=["lm_head"], config_groups={"group_0": {
        "targets": ["Linear"],
        "weights": {"num_bits": args.bits, "type": "int", "symmetric": True, **groups, **args.options}}})
    loaded = time.perf_counter()
    oneshot(model=model, tokenizer=tokenizer, dataset=dataset, recipe=recipe, num_calibration_samples=len(samples),
            max_seq_length=max(map(len, samples)), shuffle_calibration_samples=False)
    quantized = time.perf_counter()
    model.save_pretrained(args.output, save_compressed=True)
    tokenizer.save_pretrained(args.output)
    saved = time.perf_counter()
    print(json.dumps({"load_seconds": loaded - start, "quantize_seconds": quantized - loaded,
                      "save_seconds": saved - quantized}), flush=True)


if __name__ == "__main__":
    main()
