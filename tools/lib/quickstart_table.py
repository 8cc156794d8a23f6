#!/usr/bin/env python3
"""The quickstart's closing table, from the evaluations' JSON and the output's report."""

import argparse
import json
from pathlib import Path


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def weight_megabytes(directory):
    return sum(path.stat().st_size for path in directory.glob("*.safetensors")) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("source", "output", "results"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    report = read_json(args.output / "report.json")["summary"]
    bits = read_json(args.output / "config.json")["quantization_config"]["bits"]
    rows = []
    for label, directory, name in (("source, bf16", args.source, "source"),
                                   (f"GPTQ, {bits} bits", args.output, "quantized")):
        on_a, on_b = (evaluation["perplexity"] for evaluation in read_json(args.results / f"{name}.json"))
        rows.append([label, f"{weight_megabytes(directory):.0f} MB", f"{on_a:.2f}", f"{on_b:.2f}", "", ""])
    rows[1][4:] = [f"{report['seconds']:.1f} s", f"{report['peak_memory_bytes'] / 1e9:.2f} GB"]
    header = ["SmolLM2-135M-Instruct", "size", "perplexity A", "perplexity B", "time", "peak memory"]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print()
    for row in [header, ["-" * width for width in widths], *rows]:
        print("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip())
    print("\nA: held-out technical chapters; B: held-out prose (both of the Debian Administrator's Handbook)."
          "\nTime and peak memory are those of `quantize`, memory summed over ranks."
          f"\nOutput: {args.output}\nReport: {args.output / 'report.json'}, {args.output / 'report.csv'}")


if __name__ == "__main__":
    main()
