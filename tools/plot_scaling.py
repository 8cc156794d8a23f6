#!/usr/bin/env python3
"""Draws the curves that `gptq-hpc plan --scaling` wrote as one SVG: speed against ranks, both in powers of two.

    tools/plot_scaling.py --output scaling.svg llama-3-70b=70b.csv llama-3-405b=405b.csv

Needs nothing but Python.
"""

import argparse
import csv
import math
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 420, 60, 150, 30, 45
COLOURS = ["#1b6ca8", "#b5482a", "#3a8a3f", "#7a4fa3", "#8a6d1b", "#444444"]


def read_curve(path):
    """(ranks, speedup over one rank of the curve's first row times that row's ranks) of each row."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise SystemExit(f"{path} holds no curve")
    first = int(rows[0]["ranks"])
    return [(int(row["ranks"]), float(row["speedup"]) * first) for row in rows]


def draw(curves):
    most = max(max(max(ranks, speed) for ranks, speed in points) for _, points in curves)
    top = max(1, math.ceil(math.log2(most)))

    def x(value):
        return LEFT + math.log2(value) / top * (WIDTH - LEFT - RIGHT)

    def y(value):
        return HEIGHT - BOTTOM - math.log2(max(1, value)) / top * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<line x1="{x(1)}" y1="{y(1)}" x2="{x(2**top)}" y2="{y(2**top)}" stroke="#bbb" stroke-dasharray="4 4"/>']
    for power in range(top + 1):
        value = 2**power
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value}</text>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
        parts.append(f'<line x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}" stroke="#eee"/>')
    for index, (name, points) in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        line = " ".join(f"{x(ranks):.1f},{y(speed):.1f}" for ranks, speed in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(ranks):.1f}" cy="{y(speed):.1f}" r="3" fill="{colour}"/>' for ranks, speed in points]
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 20 * index + 10}" fill="{colour}">{name}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">ranks</text>')
    parts.append(f'<text x="14" y="{HEIGHT / 2}" transform="rotate(-90 14 {HEIGHT / 2})" text-anchor="middle">speed</text>')
    return "\n".join(parts + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("curves", nargs="+", metavar="NAME=FILE.csv")
    args = parser.parse_args()
    curves = []
    for curve in args.curves:
        name, separator, path = curve.partition("=")
        if not separator:
            parser.error(f"{curve}: write NAME=FILE.csv")
        curves.append((name, read_curve(path)))
    args.output.write_text(draw(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
