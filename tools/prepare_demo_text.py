#!/usr/bin/env python3
"""Plain text for the quickstart and the benchmarks, from the HTML of Debian's package debian-handbook (English).

    tools/prepare_demo_text.py --html DIR --output DIR

Writes calibration.txt and two held-out texts that share no page with it: eval_a.txt (technical chapters, like most of
the calibration text) and eval_b.txt (the project, its history and its derivatives: prose of another character).
"""

import argparse
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from html_text import text_of_html  # noqa: E402

# A chapter is known by its first page in the book's table of contents; all others calibrate.
EVAL_A = {"unix-services.html", "workstation.html"}
EVAL_B = {"foreword.html", "the-debian-project.html", "case-study.html", "existing-setup.html", "conclusion.html",
          "derivative-distributions.html"}


class BookError(Exception):
    """The book is not what this tool expects; the message says what is missing."""


def pages_by_chapter(directory):
    """{first page of a chapter: its pages in reading order}, from the table of contents."""
    index = directory / "index.html"
    if not index.is_file():
        raise BookError(f"{index} does not exist: install debian-handbook (tools/install_deps.sh --demo)")
    chapters, current, seen = {}, None, set()
    entry = re.compile(r'<span class="(preface|chapter|appendix|section)"><a href="([^"#]+)')
    for kind, page in entry.findall(index.read_text(encoding="utf-8")):
        if kind != "section":
            current = chapters.setdefault(page, [])
        if current is not None and page not in seen:
            seen.add(page)
            current.append(page)
    return chapters


def write_whole(path, text):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, required=True, help="directory of the book's English HTML pages")
    parser.add_argument("--output", type=Path, required=True, help="directory for the three text files")
    args = parser.parse_args()
    chapters = pages_by_chapter(args.html)
    unknown = (EVAL_A | EVAL_B) - set(chapters)
    if unknown:
        raise BookError(f"{args.html / 'index.html'} lacks the chapters {', '.join(sorted(unknown))}: this edition of the "
                        "handbook is arranged differently")
    texts = {"calibration": [], "eval_a": [], "eval_b": []}
    for chapter, pages in chapters.items():
        name = "eval_a" if chapter in EVAL_A else "eval_b" if chapter in EVAL_B else "calibration"
        for page in pages:
            texts[name].append(text_of_html((args.html / page).read_text(encoding="utf-8")))
    args.output.mkdir(parents=True, exist_ok=True)
    for name, pages in texts.items():
        text = "\n".join(pages)
        write_whole(args.output / f"{name}.txt", text)
        print(f"{args.output / name}.txt: {len(pages)} pages, {len(text) / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BookError, OSError) as error:
        print(f"prepare_demo_text: {error}", file=sys.stderr)
        sys.exit(2)
