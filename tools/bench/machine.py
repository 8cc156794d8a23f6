"""What a reader of a benchmark must know of the machine."""

import json
import os
import subprocess
from pathlib import Path

BF16_UNITS = {"amx_bf16": "AMX bf16 tiles", "avx512_bf16": "AVX-512 bf16"}


def cpuinfo(key):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def describe():
    flags = set(cpuinfo("flags").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpuinfo("model name") or os.uname().machine, "cores": os.cpu_count(),
            "bf16": [text for flag, text in BF16_UNITS.items() if flag in flags], "memory_bytes": memory}


PACKAGES = ("gptqmodel", "llmcompressor", "compressed-tensors", "onecomp", "torch", "transformers")
LIST_VERSIONS = """
import importlib.metadata, importlib.util, json, sys
found = {name: importlib.metadata.version(name) for name in sys.argv[1:]
         if importlib.util.find_spec(name.replace("-", "_"))}
print(json.dumps({"python": sys.version.split()[0], **found}))
"""


def package_versions(python):
    """Versions of what a peer's environment holds, without importing any of it."""
    done = subprocess.run([str(python), "-I", "-c", LIST_VERSIONS, *PACKAGES], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def program_version(program):
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=30)
    except OSError:
        return "not built"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"
