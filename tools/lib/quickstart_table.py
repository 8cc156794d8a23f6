#!/usr/bin/env python3
"""The quickstart's closing table, from the evaluations' JSON and the outputs' reports."""

import argparse
import json
from pathlib import Path


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def weight_megabytes(directory):
    return sum(path.stat().st_size for path in directory.glob("*.safetensors")) / 1e6


def row(results, name, label, directory):
    """Label, size, both perplexities; of a quantized model also time and memory."""
    directory = Path(directory)
    config = read_json(directory / "config.json").get("quantization_config")
    on_a, on_b = (evaluation["perplexity"] for evaluation in read_json(results / f"{name}.json"))
    cells = [f"{weight_megabytes(directory):.0f} MB", f"{on_a:.2f}", f"{on_b:.2f}"]
    if config is None:
        return [label, *cells, "", ""]
    report = read_json(directory / "report.json")["summary"]
    return [label.format(bits=config["bits"]), *cells, f"{report['seconds']:.1f} s",
            f"{report['peak_memory_bytes'] / 1e9:.2f} GB"]


def markdown(header, rows):
    """Lines of a table that reads well as it is too."""
    widths = [max(len(cells[i]) for cells in [header, *rows]) for i in range(len(header))]

    def line(cells):
        first, *others = (cell.ljust(width) if i == 0 else cell.rjust(width)
                          for i, (cell, width) in enumerate(zip(cells, widths)))
        return f"| {' | '.join([first, *others])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(rule), *map(line, rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--title", required=True, help="the model's name")
    parser.add_argument("--results", type=Path, required=True, help="directory of NAME.json")
    parser.add_argument("--row", nargs=3, action="append", required=True, metavar=("NAME", "LABEL", "DIR"))
    args = parser.parse_args()
    rows = [row(args.results, *parts) for parts in args.row]
    print()
    print("\n".join(markdown([args.title, "size", "perplexity A", "perplexity B", "time", "peak memory"], rows)))
    output = Path(args.row[-1][2])
    print("\nA: held-out technical chapters; B: held-out prose (both of the Debian Administrator's Handbook)."
          "\nTime and peak memory are those of `quantize`, memory summed over ranks."
          f"\nOutput: {output}\nReport: {output / 'report.json'}, {output / 'report.csv'}")


if __name__ == "__main__":
    main()
