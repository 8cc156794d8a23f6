#!/usr/bin/env python3
"""gptq-hpc beside GPTQModel and llm-compressor: same model, same samples, same machine, one perplexity program.

Started by tools/bench/run.sh, which prepares the programs and the inputs. Each system runs in a process of its own;
the time is the whole process's, from its start to the saved model. Results of earlier runs are reused for the systems
that --only leaves out.
"""

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine  # noqa: E402
import report  # noqa: E402
from measure import CommandFailed, measure  # noqa: E402
from systems import Systems, read_json, write_json  # noqa: E402


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    system: str
    label: str
    group_size: int = 0  # 0: the source model, nothing is quantized
    method: str = "gptq"


CASES = (
    Case("source", "source", "source, bf16"),
    Case("ours-rtn-g128", "ours", "gptq-hpc, round to nearest", 128, "rtn"),
    Case("ours-g128", "ours", "gptq-hpc", 128),
    Case("ours-g64", "ours", "gptq-hpc", 64),
    Case("gptqmodel-g128", "gptqmodel", "GPTQModel 7.7.0", 128),
    Case("llmcompressor-g64", "llmcompressor", "llm-compressor 0.14.0.1", 64),
)
SYSTEMS = ("source", "ours", "gptqmodel", "llmcompressor")


class Bench:
    def __init__(self, args):
        self.args = args
        self.folder = args.folder
        self.calibration = args.folder / "calibration.h5"
        for name in ("results", "logs", "models"):
            (args.folder / name).mkdir(parents=True, exist_ok=True)
        self.systems = Systems(args.cache, args.model, args.program, args.ranks, self.folder / "logs",
                               [args.folder / "eval_a.h5", args.folder / "eval_b.h5"])

    def model_of(self, case):
        return self.args.model if case.system == "source" else self.folder / "models" / case.name

    def quantize_command(self, case, calibration, output):
        if case.system == "ours":
            options = {"quantization.group_size": case.group_size, "quantization.method": case.method}
            return self.systems.our_quantize_command(calibration, output, options)
        return self.systems.peer_command(case.system, calibration, output, "--group-size", case.group_size)

    def warm_up(self, case):
        """Once per machine: the peers compile extensions and byte code on their first run, which is not timed."""
        mark = self.args.cache / "bench" / f"warm-{case.system}"
        if case.system == "ours" or mark.exists():
            return
        say(f"warming {case.label} up")
        output = self.folder / "models" / "warm-up"
        measure(self.quantize_command(case, self.folder / "warm-up.h5", output), self.folder / "logs" / "warm-up.log",
                folder=self.folder / "logs")
        shutil.rmtree(output)
        mark.touch()

    def quantize(self, case):
        output = self.model_of(case)
        shutil.rmtree(output, ignore_errors=True)
        self.warm_up(case)
        say(f"{case.name}: quantizing")
        log = self.folder / "logs" / f"{case.name}.log"
        environment = self.systems.our_environment() if case.system == "ours" else None
        measured = measure(self.quantize_command(case, self.calibration, output), log, environment,
                           folder=self.folder / "logs")  # GPTQModel writes a logs/ where it is started
        say(f"{case.name}: {measured.seconds:.1f} s, {measured.peak_pss_bytes / 1e9:.2f} GB")
        return {**measured.as_dict(), "parts": self.systems.parts(case.system, log, output)}

    def run(self, case):
        path = self.folder / "results" / f"{case.name}.json"
        result = read_json(path) if self.args.eval_only and path.exists() else {}
        if case.group_size and not self.args.eval_only:
            result = self.quantize(case)
        if not self.model_of(case).is_dir():
            raise CommandFailed(f"{case.name} has no output yet: run it without --eval-only")
        result["weight_bytes"] = sum(file.stat().st_size for file in self.model_of(case).glob("*.safetensors"))
        result.update(name=case.name, label=case.label, group_size=case.group_size)
        write_json(path, result)  # a failed evaluation must not lose the measurement
        say(f"{case.name}: perplexity")
        write_json(path, {**result, **self.systems.evaluate(case.name, case.system, self.model_of(case))})

    def stored_results(self):
        paths = [self.folder / "results" / f"{case.name}.json" for case in CASES]
        return [read_json(path) for path in paths if path.exists()]


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SYSTEMS, help="run this system; may be repeated (all)")
    parser.add_argument("--eval-only", action="store_true", help="measure perplexity again, quantize nothing")
    parser.add_argument("--table-only", action="store_true", help="run nothing, print the stored results")
    parser.add_argument("--ranks", type=int, default=min(2, os.cpu_count() or 1), help="MPI ranks of gptq-hpc (2)")
    parser.add_argument("--publish", type=Path, metavar="STEM", help="also write STEM.json and STEM.md")
    for name in ("model", "folder", "cache", "program"):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).absolute(), required=True, help=argparse.SUPPRESS)
    parser.add_argument("--workload", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--command", required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    bench = Bench(args)
    failed = []
    for case in () if args.table_only else CASES:
        if args.only and case.system not in args.only:
            continue
        try:
            bench.run(case)
        except CommandFailed as error:
            say(f"{case.name} failed: {error}")
            failed.append(case.name)
    document = {"workload": args.workload, "command": args.command, "ranks": args.ranks,
                "machine": machine.describe(), "program": machine.program_version(args.program),
                "results": bench.stored_results()}
    write_json(args.folder / "results.json", document)
    table = report.markdown(document)
    (args.folder / "results.md").write_text(table, encoding="utf-8")
    print(table)
    if args.publish:
        args.publish.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.publish.with_suffix(".json"), document)
        args.publish.with_suffix(".md").write_text(table, encoding="utf-8")
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
