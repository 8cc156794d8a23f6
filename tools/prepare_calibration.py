#!/usr/bin/env python3
"""Writes a calibration or evaluation file (HDF5, docs/calibration-format.md) for one model.

    tools/prepare_calibration.py --model DIR --source text.txt --output calibration.h5
    tools/prepare_calibration.py --model DIR --source records.jsonl --text-field content --mode rows --output rows.h5
    tools/prepare_calibration.py --model DIR --source records.jsonl --mode rows --pack --seqlen 2048 --output packed.h5
    tools/prepare_calibration.py --model DIR --source records.jsonl --mode rows --pad-to 512 --pad-side left --output padded.h5
    tools/prepare_calibration.py --model DIR --source wikitext2 --seqlen 2048 --nsamples 128 --output wikitext2.h5
    tools/prepare_calibration.py --model DIR --source held-out.txt --contiguous --seqlen 1024 --output evaluation.h5
    tools/prepare_calibration.py --model DIR --source text.txt --bos --output calibration.h5
    tools/prepare_calibration.py --model DIR --ids ids.npy --output calibration.h5

A source is a file (.txt or any text, .html, .jsonl) or one of wikitext2, ptb, ptb_new, c4, c4_new. Exit code 2 and one
line on stderr for anything that cannot be used; the output appears only when it is complete.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

import text_sources  # noqa: E402
from sample_choice import draw_samples  # noqa: E402
from text_sources import SourceError  # noqa: E402

FORMAT, VERSION, VERSION_WITH_MASK = "gptq-hpc-calibration", 1, 2


def vocabulary_sha256(tokenizer_path):
    """Hash of which token has which id (docs/calibration-format.md): the same however the tokenizer was saved."""
    try:
        tokenizer = json.loads(text_sources.read_utf8(tokenizer_path))
        vocabulary = tokenizer["model"].get("vocab", {})
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((entry[0], i) for i, entry in enumerate(vocabulary))
        words = {(number, token.encode()) for token, number in pairs}
        words |= {(added["id"], added["content"].encode()) for added in tokenizer.get("added_tokens", [])}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SourceError(f"{tokenizer_path} is not a tokenizer: {error!r}; fetch the model again") from error
    if not words:
        return ""
    return hashlib.sha256(b"".join(b"%d %s\n" % word for word in sorted(words))).hexdigest()


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        raise SourceError(f"{message} (--help lists the options)")


class Model:
    """What a calibration file must know of a model directory."""

    def __init__(self, directory, needs_tokenizer):
        config_path = directory / "config.json"
        if not config_path.is_file():
            raise SourceError(f"--model {directory}: no config.json there; give a Hugging Face model directory")
        try:
            config = json.loads(text_sources.read_utf8(config_path))
            config = config if "vocab_size" in config else config["text_config"]
            self.vocab_size = int(config["vocab_size"])
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{config_path} is not a model's configuration: no usable vocab_size") from error
        self.max_positions = config.get("max_position_embeddings")
        self.pad_id = self.pick_pad_id(config)
        self.bos_id = config.get("bos_token_id")
        self.tokenizer_path = directory / "tokenizer.json"
        has_tokenizer = self.tokenizer_path.is_file()
        if needs_tokenizer and not has_tokenizer:
            raise SourceError(f"{self.tokenizer_path} does not exist: save the model's fast tokenizer there, or pass "
                              "token ids with --ids")
        self.vocabulary_sha256 = vocabulary_sha256(self.tokenizer_path) if has_tokenizer else ""

    def pick_pad_id(self, config):
        for key in ("pad_token_id", "eos_token_id", "bos_token_id"):
            value = config.get(key)
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, int) and 0 <= value < self.vocab_size:
                return value
        return 0

    def load_tokenizer(self):
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.tokenizer_path))
        except Exception as error:  # tokenizers raises a plain Exception
            raise SourceError(f"{self.tokenizer_path} cannot be loaded: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


class Documents:
    """The source as token ids: `stream()` is all of it in one row, `rows()` each document by itself."""

    def __init__(self, args, model):
        self.name = str(args.ids or args.source)
        self.ids = None
        if args.ids:
            self.ids = text_sources.id_documents(args.ids)
            if not any(self.ids):
                raise SourceError(f"--ids {args.ids} holds no token ids")
            return
        named = self.name in text_sources.DATASETS
        if not named and not args.source.is_file():
            raise SourceError(f"--source {args.source} is neither a file nor one of "
                              f"{', '.join(text_sources.DATASETS)}")
        self.texts, self.join = (
            text_sources.dataset_documents(self.name, args.split) if named
            else text_sources.text_documents(args.source, args.text_field))
        if not named:
            self.name = args.source.name
        if not any(text.strip() for text in self.texts):
            raise SourceError(f"--source {self.name} holds no text")
        self.limit = text_sources.DATASETS[self.name].get("limit") if named else None
        self.special = not args.bos  # a window's first token is then put there by itself
        self.tokenizer = model.load_tokenizer()

    def stream(self):
        if self.ids is not None:
            return [i for row in self.ids for i in row]
        return self.tokenizer.encode(self.join.join(self.texts[: self.limit]), add_special_tokens=self.special).ids

    def rows(self):
        if self.ids is not None:
            return [list(row) for row in self.ids]
        texts = [text for text in self.texts if text.strip()]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=self.special)]

    def encode(self, index):
        return self.tokenizer.encode(self.texts[index], add_special_tokens=self.special).ids


def samples_with_bos(documents, args, model):
    """Windows one token shorter, behind the model's bos token."""
    if not isinstance(model.bos_id, int):
        raise SourceError(f"--bos: {args.model / 'config.json'} has no bos_token_id: this model has no such token")
    shorter = argparse.Namespace(**{**vars(args), "seqlen": args.seqlen - 1})
    return [[model.bos_id, *sample] for sample in draw_samples(documents, shorter)]


def lay_out(samples, width, pad_id, left):
    """(input_ids [n, width], attention_mask [n, width]), both little-endian int32."""
    import numpy as np

    ids = np.full((len(samples), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(samples), width), dtype="<i4")
    for row, sample in enumerate(samples):
        first = width - len(sample) if left else 0
        ids[row, first: first + len(sample)] = sample
        mask[row, first: first + len(sample)] = 1
    return ids, mask


def check_ids(ids, vocab_size):
    """The same as little-endian int32; refuses ids outside the vocabulary."""
    import numpy as np

    bad = np.argwhere((ids < 0) | (ids >= vocab_size))
    if len(bad):
        row, column = bad[0]
        raise SourceError(f"token id {ids[row, column]} (sample {row}, position {column}) is outside the model's vocabulary "
                          f"of {vocab_size}: these ids or this tokenizer belong to another model")
    return ids.astype("<i4")


def make_datasets(samples, args, model):
    """The file's datasets in the order in which its hash covers them (docs/calibration-format.md)."""
    import numpy as np

    width = args.pad_to or args.seqlen
    ids, mask = lay_out(samples, width, model.pad_id, left=args.pad_side == "left")
    ids = check_ids(ids, model.vocab_size)
    if not args.pad_to:
        return {"input_ids": ids, "lengths": np.array([len(sample) for sample in samples], dtype="<i4")}
    ends = [width if args.pad_side == "left" else len(sample) for sample in samples]
    return {"attention_mask": mask, "input_ids": ids, "lengths": np.array(ends, dtype="<i4")}


def write_file(path, datasets, attributes, pad_id):
    """Writes under a temporary name, syncs, renames."""
    import h5py

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs.update(attributes)
            for name, values in datasets.items():
                file.create_dataset(name, data=values)
            file["input_ids"].attrs["pad_id"] = pad_id
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise SourceError(f"--output {path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_row_options(args):
    given = {"--min-length": args.min_length is not None, "--pack": args.pack, "--sort": args.sort != "as_is",
             "--pad-to": args.pad_to is not None}
    for option, is_given in given.items():
        if is_given and args.mode != "rows":
            raise SourceError(f"{option} applies to --mode rows only")
    if args.pack and (args.pad_to is not None or args.sort != "as_is"):
        raise SourceError("--pack makes samples of equal length: --pad-to and --sort do not go with it")
    if args.separator is not None and (not args.pack or args.ids):
        raise SourceError("--separator goes with --pack of texts only")
    if args.bos and (args.ids or (args.mode == "rows" and not args.pack)):
        raise SourceError("--bos goes with windows of texts: a document by itself gets what the model's tokenizer adds, and "
                          "ids stay as they are")
    if args.pad_side != "right" and args.pad_to is None:
        raise SourceError("--pad-side goes with --pad-to only")
    if args.pad_to is not None and args.pad_to < 2:
        raise SourceError(f"--pad-to {args.pad_to}: a sample has at least 2 tokens")
    if args.pad_to is not None and args.pad_to < args.seqlen:
        args.seqlen = args.pad_to  # longer rows are cut there


def parse_arguments(arguments):
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", type=Path, help="text file, or a dataset's name")
    source.add_argument("--ids", type=Path, help="pre-tokenized ids: .npy, .json or .jsonl")
    parser.add_argument("--text-field", default="text", help="field of .jsonl records (text)")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="train", help="of a named dataset")
    parser.add_argument("--nsamples", type=int, help="samples to write (128; with --contiguous: all there are)")
    parser.add_argument("--seqlen", type=int, default=2048, help="tokens a sample, capped to what the model takes (2048)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=("windows", "rows"), default="windows",
                        help="windows: random windows of the whole text; rows: one document a sample, padded")
    parser.add_argument("--contiguous", action="store_true", help="consecutive windows without overlap, for perplexity")
    parser.add_argument("--min-length", type=int, help="with --mode rows: skip shorter rows (2)")
    parser.add_argument("--pack", action="store_true",
                        help="with --mode rows: join the rows and cut them into samples of --seqlen")
    parser.add_argument("--separator", help="with --pack: text between two rows")
    parser.add_argument("--bos", action="store_true",
                        help="begin every window with the model's bos token (which counts in --seqlen), as models expect "
                             "that were trained so; Gemma is a bad model without it")
    parser.add_argument("--sort", choices=("as_is", "longest", "shortest"), default="as_is",
                        help="with --mode rows: order of the chosen rows (as_is)")
    parser.add_argument("--pad-to", type=int, metavar="N",
                        help="with --mode rows: pad the rows to N tokens and write an attention_mask; the job takes the "
                             "padding off again, so this is for comparisons with programs that need it")
    parser.add_argument("--pad-side", choices=("left", "right"), default="right", help="with --pad-to (right)")
    parser.add_argument("--output", type=Path, required=True, help="HDF5 file to write")
    args = parser.parse_args(arguments)
    if args.contiguous and args.mode == "rows":
        raise SourceError("--contiguous cuts windows of one text and does not go with --mode rows")
    check_row_options(args)
    if args.seqlen < 2 + args.bos:
        raise SourceError(f"--seqlen {args.seqlen}: a sample has at least {2 + args.bos} tokens")
    if args.nsamples is not None and args.nsamples < 1:
        raise SourceError(f"--nsamples {args.nsamples}: at least 1")
    if args.nsamples is None and not args.contiguous:
        args.nsamples = 128
    args.min_length = max(2 if args.min_length is None else args.min_length, 1)
    if not args.output.absolute().parent.is_dir() or args.output.is_dir():
        raise SourceError(f"--output {args.output}: not a file name in an existing directory")
    return args


def main(arguments=None):
    args = parse_arguments(arguments)
    model = Model(args.model, needs_tokenizer=args.ids is None)
    if isinstance(model.max_positions, int) and args.seqlen > model.max_positions:
        print(f"note: --seqlen {args.seqlen} is more than the model's max_position_embeddings; using {model.max_positions}")
        args.seqlen = model.max_positions
    documents = Documents(args, model)
    samples = samples_with_bos(documents, args, model) if args.bos else draw_samples(documents, args)
    datasets = make_datasets(samples, args, model)
    ids = datasets["input_ids"]
    attributes = {
        "format": FORMAT, "version": VERSION_WITH_MASK if args.pad_to else VERSION, "source": documents.name, "vocabulary_sha256": model.vocabulary_sha256,
        "vocab_size": model.vocab_size, "nsamples": len(ids), "seqlen": ids.shape[1], "seed": args.seed,
        "mode": "contiguous" if args.contiguous else "packed" if args.pack else args.mode, "created_by": "gptq-hpc prepare_calibration.py",
        "sha256": hashlib.sha256(b"".join(values.tobytes() for values in datasets.values())).hexdigest()}
    write_file(args.output, datasets, attributes, model.pad_id)
    print(f"{args.output}: {len(ids)} samples, {sum(map(len, samples))} tokens, at most {args.seqlen} a sample, "
          f"from {documents.name}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SourceError as error:
        print(f"prepare_calibration: {error}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        print(f"prepare_calibration: the Python package {error.name} is missing: pip install -r tools/requirements.txt",
              file=sys.stderr)
        sys.exit(2)
