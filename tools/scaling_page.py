#!/usr/bin/env python3
"""Makes docs/scaling/ of what `tools/scaling.sh plans` printed: a page with every plan, the curves as CSV and one picture.

    tools/scaling_page.py FOLDER docs/scaling

FOLDER holds NAME.json and NAME.txt of each plan (`gptq-hpc plan --json`, its output) and MODEL.csv of each curve
(`gptq-hpc plan --scaling ... --csv`).
"""

import argparse
import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import pyplot

HEAD = """# Plans of large models, as printed

Written by `tools/scaling.sh plans --publish`; what they rest on, and what they leave out, is in [scaling.md](../scaling.md). **No figure
here was measured**: the machines are described from data sheets and assumptions (configs/machines/).

"""
CURVES = """## Strong scaling

1,024 samples of 2,048 tokens on so many H100, {names}. The dashed line is perfect scaling. Where the activations of a rank
begin to fit its device, a curve may rise faster than that.

![speed against ranks](scaling.svg)

"""


@dataclass(frozen=True)
class Plan:
    name: str  # of its files
    figures: dict  # what --json wrote
    text: str  # what the program printed

    @property
    def title(self):
        model, _, _ = self.name.rpartition("-")
        return f"{model}, {self.figures['ranks']} rank{'s' if self.figures['ranks'] > 1 else ''}"

    def row(self):
        figures = self.figures
        idle, size = figures["idle_share"], figures["bytes"]
        return [f"[{self.title}](#{anchor(self.title)})", f"{figures['stages']} x {figures['replicas']}",
                duration(figures["seconds"]), figures["limited_by"], f"{100 * idle['least']:.0f} to {100 * idle['most']:.0f} %",
                f"{figures['memory']['device_peak'] / 1e9:.1f} GB", f"{figures['memory']['host_peak'] / 1e9:.1f} GB",
                amount(size["inside_nodes"]), amount(size["between_nodes"]), amount(size["read"]), amount(size["output"])]


def anchor(title):
    """As GitHub makes them of headings."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def duration(seconds):
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s"


def amount(size):
    unit, divisor = ("TB", 1e12) if size >= 1e12 else ("GB", 1e9)
    return f"{size / divisor:.1f} {unit}" if size else "-"


def read_plans(folder):
    plans = [Plan(path.stem, json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".txt").read_text(encoding="utf-8"))
             for path in sorted(folder.glob("*.json"))]
    if not plans:
        raise SystemExit(f"{folder} holds no plans; run tools/scaling.sh plans first")
    return sorted(plans, key=lambda plan: (plan.figures["ranks"], plan.name))


def table(plans):
    head = ["model", "grid", "time", "limited by", "a rank waits", "device", "host", "in nodes", "between", "reads", "output"]
    lines = [head, ["---"] * 4 + ["---:"] * 7, *(plan.row() for plan in plans)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def without_log(text):
    """Warnings bear the time at which they were printed, so they would differ from run to run."""
    return "\n".join(line for line in text.splitlines() if not line[:4].isdigit()).strip()


def read_curve(path):
    """Ranks and speed, the speed of the least number of ranks being that number."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first = int(rows[0]["ranks"])
    return [int(row["ranks"]) for row in rows], [float(row["speedup"]) * first for row in rows]


def draw(curves, path):
    matplotlib.rcParams["svg.hashsalt"] = "gptq-hpc"  # the same file for the same figures
    figure, axes = pyplot.subplots(figsize=(7, 4.6), layout="constrained")
    most = 1
    for name, (ranks, speed) in curves.items():
        axes.plot(ranks, speed, marker="o", markersize=4, label=name)
        most = max(most, *ranks)
    axes.plot([1, most], [1, most], linestyle="--", color="gray", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("ranks (H100, forecast)")
    axes.set_ylabel("speed, over one rank")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    plans = read_plans(args.folder)
    curves = {path.stem: read_curve(path) for path in sorted(args.folder.glob("*.csv"))}
    args.output.mkdir(parents=True, exist_ok=True)
    for path in args.folder.glob("*.csv"):
        shutil.copy(path, args.output)
    draw(curves, args.output / "scaling.svg")
    page = HEAD + table(plans) + CURVES.format(names=", ".join(f"[{name}]({name}.csv)" for name in curves))
    for plan in plans:
        page += f"## {plan.title}\n\n```\n{without_log(plan.text)}\n```\n\n"
    (args.output / "plans.md").write_text(page.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
