"""The commands of the systems that the benchmarks compare, and one perplexity program for all of them."""

import json
import os
import shutil
from pathlib import Path

from measure import CommandFailed, measure

HERE = Path(__file__).resolve().parent
JOB = HERE / "job.yaml"
COMPRESSED = ("llmcompressor",)  # systems whose output decompress.py turns into plain weights for `gptq-hpc eval`


class Systems:
    """`cache` holds the peers' environments (venv-NAME), `model` the source, `evaluations` the two held texts."""

    def __init__(self, cache, model, program, ranks, logs, evaluations):
        self.cache, self.model, self.program = cache, model, program
        self.ranks, self.logs, self.evaluations = ranks, logs, evaluations

    def python_of(self, system):
        python = self.cache / f"venv-{system}" / "bin" / "python"
        if not python.exists():
            raise CommandFailed(f"the Python environment of {system} is missing: tools/bench/*.sh make it")
        return python

    def peer_command(self, system, calibration, output, *options):
        return [str(self.python_of(system)), str(HERE / f"run_{system}.py"), "--model", str(self.model),
                "--calibration", str(calibration), "--output", str(output), *map(str, options)]

    def our_command(self, *arguments):
        return ["mpirun", "-n", str(self.ranks), "--bind-to", "none", str(self.program), *map(str, arguments)]

    def our_quantize_command(self, calibration, output, options):
        """`options`: keys of the job and their values."""
        settings = {"model.path": self.model, "calibration.path": calibration, "output.path": output, **options}
        return self.our_command("quantize", JOB, "--overwrite", *(
            word for key, value in settings.items() for word in ("--set", f"{key}={value}")))

    def our_environment(self):
        return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.ranks))}

    def parts(self, system, log, output):
        """Seconds of the parts as the system itself tells them."""
        if system == "ours":
            return {"quantize_seconds": read_json(output / "report.json")["summary"]["seconds"]}
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith('{"load_seconds"')]
        return json.loads(lines[-1]) if lines else {}

    def evaluate(self, name, system, model):
        """Perplexity on both texts, by `gptq-hpc eval` for every system."""
        plain = None
        if (model / "plain").is_dir():  # run_onecomp.py leaves its weights there, dequantized by OneComp
            model = model / "plain"
        elif system in COMPRESSED:  # another format: its own loader turns it into plain weights
            plain = model.with_name(f"{name}-plain")
            measure([str(self.python_of(system)), str(HERE / "decompress.py"), "--model", str(model), "--output",
                     str(plain)], self.logs / f"{name}-decompress.log")
        result = self.logs / f".{name}-eval.json"
        data = f"[{', '.join(map(str, self.evaluations))}]"
        try:
            measure(self.our_command("eval", JOB, "--set", f"model.path={self.model}", "--model", plain or model,
                                     "--set", f"eval.data={data}", "--json", result),
                    self.logs / f"{name}-eval.log", self.our_environment())
            on_a, on_b = (evaluation["perplexity"] for evaluation in read_json(result))
        finally:
            result.unlink(missing_ok=True)
            if plain:
                shutil.rmtree(plain, ignore_errors=True)
        return {"perplexity_a": on_a, "perplexity_b": on_b}


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(path, value):
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
