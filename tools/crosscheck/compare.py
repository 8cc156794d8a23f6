#!/usr/bin/env python3
"""compare.py BITS OURS.json THEIRS.json: one table row; exit code 1 where two perplexities differ by more than 0.5 %."""

import json
import sys

PERPLEXITY_TOLERANCE = 0.005
KERNEL_TOLERANCE = 0.02  # 16-bit kernels on a few tokens


def main():
    bits, ours_path, theirs_path = sys.argv[1:]
    with open(ours_path, encoding="utf-8") as file:
        ours = json.load(file)
    with open(theirs_path, encoding="utf-8") as file:
        theirs = json.load(file)
    difference = theirs["perplexity"] / ours["perplexity"] - 1
    agrees = (abs(difference) <= PERPLEXITY_TOLERANCE and theirs["kernel_difference"] <= KERNEL_TOLERANCE
              and ours["tokens"] == theirs["tokens"])
    print(f"{bits:>4}  {theirs['loader']:<14} {theirs['perplexity']:>12.4f} {ours['perplexity']:>12.4f} "
          f"{difference:>+11.3%}{'' if agrees else '  DIFFERS'}", flush=True)
    if ours["tokens"] != theirs["tokens"]:
        print(f"      tokens counted: {theirs['tokens']} there, {ours['tokens']} here")
    if theirs["kernel_difference"] > KERNEL_TOLERANCE:
        print(f"      its kernel differs from its own dequantized weights by {theirs['kernel_difference']:.2%}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
