#!/usr/bin/env python3
"""The quality table: recipes of gptq-hpc and its peers at several bit widths, one perplexity program for all.

Started by tools/bench/quality.sh, which prepares the programs and the inputs. One JSON file per recipe and setting; a
run skips what is there, so it may be interrupted at any time. A recipe that fails is a row with its reason.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine  # noqa: E402
import quality_report  # noqa: E402
from measure import CommandFailed, measure  # noqa: E402
from recipes import Table  # noqa: E402
from systems import Systems, read_json, write_json  # noqa: E402

REPO = Path(__file__).resolve().parents[2]
QUIET_CORES = 0.1  # other work that a time worth publishing allows


class Queue:
    def __init__(self, args, table):
        self.args, self.table, self.folder = args, table, args.folder
        self.calibration = args.samples / "calibration.h5"
        for name in ("results", "logs", "models"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.systems = Systems(args.cache, args.model, args.program, args.ranks, self.folder / "logs",
                               [args.samples / "eval_a.h5", args.samples / "eval_b.h5"])
        self.samples_hash = file_hash(self.calibration)

    def result_path(self, pair):
        return self.folder / "results" / f"{pair.name}.json"

    def key(self, pair):
        """What a stored result must agree with to count."""
        return {"options": pair.recipe.set or pair.recipe.options, "bits": pair.setting.bits,
                "group_size": pair.setting.group_size, "samples_sha256": self.samples_hash}

    def stored(self, pair):
        path = self.result_path(pair)
        result = read_json(path) if path.exists() else None
        return result if result and all(result[name] == value for name, value in self.key(pair).items()) else None

    def state(self, pair):
        result = self.stored(pair)
        if result is None:
            return "waits"
        if "failed" in result:
            return "failed"
        return "done" if "perplexity_a" in result else "not evaluated"

    def command(self, pair, output):
        recipe, setting = pair.recipe, pair.setting
        if recipe.system == "ours":
            return self.systems.our_quantize_command(self.calibration, output, {
                "quantization.bits": setting.bits, "quantization.group_size": setting.group_size,
                **{key: yaml_word(value) for key, value in recipe.set.items()}})
        return self.systems.peer_command(recipe.system, self.calibration, output, "--bits", setting.bits,
                                         "--group-size", setting.group_size, "--options", json.dumps(recipe.options))

    def portable(self, text):
        """Without this machine's folders."""
        for path, name in ((self.args.program, "build/cpu/gptq-hpc"), (self.args.cache, ".cache"), (REPO, "")):
            text = text.replace(f"{path}/" if path == REPO else str(path), name)
        return text

    def about(self, pair):
        return {"name": pair.name, "recipe": pair.recipe.name, "setting": pair.setting.name,
                "system": pair.recipe.system, "label": pair.recipe.label, "bundle": pair.recipe.bundle,
                **self.key(pair)}

    def versions(self, pair):
        if pair.recipe.system == "ours":
            return {"gptq-hpc": machine.program_version(self.args.program),
                    "program_sha256": file_hash(self.args.program)}
        return machine.package_versions(self.systems.python_of(pair.recipe.system))

    def quantize(self, pair, output):
        shutil.rmtree(output, ignore_errors=True)
        command = self.command(pair, output)
        load_before = os.getloadavg()[0]
        environment = self.systems.our_environment() if pair.recipe.system == "ours" else {}
        log = self.folder / "logs" / f"{pair.name}.log"
        # in a folder of the cache: GPTQModel writes a logs/ where it is started
        measured = measure(command, log, environment, self.args.limit_seconds, self.folder / "logs")
        if pair.recipe.system == "ours":  # layers, losses, phases: more than the table shows
            shutil.copy(output / "report.json", self.folder / "logs" / f"{pair.name}.report.json")
        return {"command": self.portable(" ".join(command)), **measured.as_dict(), "load_before": load_before,
                "load_after": os.getloadavg()[0], "quiet": measured.other_cores <= QUIET_CORES,
                "parts": self.systems.parts(pair.recipe.system, log, output),
                "weight_bytes": sum(file.stat().st_size for file in output.glob("*.safetensors"))}

    def run(self, pair):
        """Measures the pair; True where it is a full row afterwards."""
        output, path = self.folder / "models" / pair.name, self.result_path(pair)
        result = self.stored(pair) if self.state(pair) == "not evaluated" and output.is_dir() else None
        if result is None:
            say(f"{pair.name}: quantizing")
            start = time.time()
            try:
                result = {**self.about(pair), "versions": self.versions(pair), **self.quantize(pair, output)}
            except CommandFailed as error:
                say(f"{pair.name} failed: {error}")
                write_json(path, {**self.about(pair), "failed": self.portable(reason_of(str(error))),
                                  "failed_after_seconds": time.time() - start})
                return False
            write_json(path, result)  # a failed evaluation must not lose the measurement
        say(f"{pair.name}: {result['seconds']:.1f} s, {result['peak_pss_bytes'] / 1e9:.2f} GB; perplexity")
        try:
            found = self.systems.evaluate(pair.name, pair.recipe.system, output)
        except CommandFailed as error:
            say(f"{pair.name}: no perplexity: {error}")
            write_json(path, {**result, "evaluation_failed": self.portable(reason_of(str(error)))})
            return False
        result.pop("evaluation_failed", None)
        write_json(path, {**result, **found})
        say(f"{pair.name}: {found['perplexity_a']:.3f} / {found['perplexity_b']:.3f}")
        if not self.args.keep_models:
            shutil.rmtree(output)
        return True

    def adopt(self):
        """Takes over what tools/bench/run.sh has measured from the same samples."""
        for name, other in self.table.adopt.items():
            pair = next(pair for pair in self.table.pairs() if pair.name == name)
            source = self.args.samples / "results" / f"{other}.json"
            if self.stored(pair) or not source.exists() or "perplexity_a" not in read_json(source):
                continue
            found = read_json(source)
            for key in ("name", "label", "group_size"):
                del found[key]
            write_json(self.result_path(pair), {
                **self.about(pair), "versions": self.versions(pair),
                "command": f"tools/bench/run.sh --only {pair.recipe.system}", **found,
                "quiet": found.get("other_cores", float("inf")) <= QUIET_CORES})
            say(f"{name}: taken over from tools/bench/run.sh")

    def source(self):
        """Perplexity of the unquantized model; None before it is measured."""
        path = self.folder / "results" / "source.json"
        source = read_json(path) if path.exists() else None
        return source if source and source["samples_sha256"] == self.samples_hash else None

    def evaluate_source(self):
        if self.source() is None:
            say("source: perplexity")
            write_json(self.folder / "results" / "source.json",
                       {"name": "source", "label": "source, bf16", "samples_sha256": self.samples_hash,
                        **self.systems.evaluate("source", "source", self.args.model)})

    def refinement(self, pair):
        """What refinement did to the exact losses of our layers: {} where the recipe has none."""
        path = self.folder / "logs" / f"{pair.name}.report.json"
        if pair.recipe.system != "ours" or not path.exists():
            return {}
        layers = [layer for layer in read_json(path)["layers"] if "raised_rows" in layer]
        if not layers:
            return {}
        gains = [layer["refinement_gain"] for layer in layers]
        return {"refinement": {"layers": len(layers), "raised_layers": sum(gain < 0 for gain in gains),
                               "raised_rows": sum(layer["raised_rows"] for layer in layers),
                               "least_gain": min(gains), "mean_gain": sum(gains) / len(gains)}}

    def document(self):
        results = [{**self.stored(pair), "label": pair.recipe.label, "bundle": pair.recipe.bundle,
                    **self.refinement(pair)}
                   for pair in self.table.pairs() if self.stored(pair)]
        return {"workload": self.args.workload, "machine": machine.describe(), "source": self.source(),
                "settings": {name: setting.label for name, setting in self.table.settings.items()},
                "recipes": {name: recipe.label for name, recipe in self.table.recipes.items()},
                "results": sorted(results, key=self.row_order)}

    def row_order(self, result):
        return list(self.table.settings).index(result["setting"]), list(self.table.recipes).index(result["recipe"])


def absolute_path(text):
    return Path(text).absolute()


def yaml_word(value):
    """As --set takes it: JSON is YAML, and plain words stay plain."""
    return value if isinstance(value, str) else json.dumps(value)


def file_hash(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason_of(message):
    """The line that says what went wrong: the last that looks like an exception, else the last of all."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Refused|error)\b", line)]
    return (errors or lines)[-1][:500]


def say(text):
    print(f"{time.strftime('%H:%M:%S')} quality: {text}", file=sys.stderr, flush=True)


def measure_all(queue, pairs, again):
    """The names of the pairs that failed."""
    if queue.args.adopt:
        queue.adopt()
    queue.evaluate_source()
    failed = []
    for pair in pairs:
        if again or queue.state(pair) in ("waits", "not evaluated"):
            if not queue.run(pair):
                failed.append(pair.name)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="this recipe or system; may be repeated (all)")
    parser.add_argument("--setting", action="append", default=[], help="this setting; may be repeated (all)")
    parser.add_argument("--again", action="store_true", help="measure even what is there, and what failed")
    parser.add_argument("--state", action="store_true", help="run nothing, say what is done, failed and waits")
    parser.add_argument("--table-only", action="store_true", help="run nothing, print the table of what is there")
    parser.add_argument("--keep-models", action="store_true", help="leave the quantized models in the cache")
    parser.add_argument("--limit-seconds", type=float, default=14400, help="of one quantization (14400)")
    parser.add_argument("--ranks", type=int, default=min(2, os.cpu_count() or 1), help="MPI ranks of gptq-hpc (2)")
    parser.add_argument("--publish", type=Path, metavar="STEM", help=argparse.SUPPRESS)
    parser.add_argument("--page", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", default="quality", help=argparse.SUPPRESS)
    parser.add_argument("--adopt", action="store_true", help=argparse.SUPPRESS)
    for name in ("model", "folder", "samples", "cache", "program"):
        parser.add_argument(f"--{name}", type=absolute_path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--workload", required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    table = Table()
    queue = Queue(args, table)
    pairs = table.select(args.only, args.setting)
    if args.state:
        for pair in pairs:
            print(f"{queue.state(pair):14} {pair.name}")
        return 0
    failed = []
    if not args.table_only:
        with open(args.folder / "queue.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another run is at work in this folder: wait for its end (--state shows how far it is)")
                return 1
            failed = measure_all(queue, pairs, args.again)
    if queue.source() is None:
        say("nothing is measured yet")
        return 1
    document = queue.document()
    text = quality_report.markdown(document, details=args.part == "quality")
    if args.publish:
        write_json(args.publish.with_suffix(".json"), document)
        quality_report.replace_in_page(args.page, args.part, text)
    print(text)
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
