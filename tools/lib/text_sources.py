"""Where calibration text comes from: local files, the datasets the GPTQ literature names, pre-tokenized ids.

Everything is read into a list of documents (strings, or lists of token ids); how they become samples is the caller's
matter. Every problem is a SourceError whose one-line message says what to do.
"""

import json
from pathlib import Path

# How each named dataset is loaded, and how the literature joins its records into one text.
DATASETS = {
    "wikitext2": {"path": "Salesforce/wikitext", "config": "wikitext-2-raw-v1", "field": "text", "join": "\n\n"},
    "ptb": {"path": "ptb-text-only/ptb_text_only", "config": "penn_treebank", "field": "sentence", "join": "\n\n"},
    "ptb_new": {"path": "ptb-text-only/ptb_text_only", "config": "penn_treebank", "field": "sentence", "join": " "},
    "c4": {"path": "allenai/c4", "field": "text", "join": " ", "limit": 1100, "files": {
        "train": "en/c4-train.00000-of-01024.json.gz", "validation": "en/c4-validation.00000-of-00008.json.gz"}},
}
DATASETS["c4_new"] = DATASETS["c4"]
# Sets whose windows are drawn inside single documents rather than from the joined text.
WINDOWS_INSIDE_DOCUMENTS = {"c4", "c4_new"}


class SourceError(Exception):
    """The input cannot be used; the message is one line and says what to do."""


def read_utf8(path):
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text (byte {error.start}): convert it, for instance with iconv") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def json_lines(path):
    """(line number, value) of every line that is not empty."""
    for number, line in enumerate(read_utf8(path).splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise SourceError(f"{path}:{number} is not JSON ({error}): expected one record a line") from error


def text_documents(path, field):
    """Documents of a local file: records of .jsonl, the page of .html, else blocks with an empty line between."""
    suffix = Path(path).suffix.lower()
    if suffix == ".jsonl":
        documents = []
        for number, record in json_lines(path):
            if not isinstance(record, dict) or not isinstance(record.get(field), str):
                known = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
                raise SourceError(f"{path}:{number} has no text field '{field}' (it has: {known}): "
                                  "name the right one with --text-field")
            documents.append(record[field])
        return documents, "\n\n"
    text = read_utf8(path)
    if suffix in (".html", ".htm", ".xhtml"):
        from html_text import text_of_html

        text = text_of_html(text)
    return text.split("\n\n"), "\n\n"  # lossless: joined again it is the same text


def dataset_documents(name, split):
    """Records of one of DATASETS through the `datasets` package, and the string that joins them."""
    entry = DATASETS[name]
    split = "validation" if split == "test" and "files" in entry else split
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise SourceError(f"--source {name} needs the Python package datasets: "
                          "pip install -r tools/requirements-datasets.txt, or give a local file") from error
    try:
        if "files" in entry:
            data = load_dataset(entry["path"], data_files={split: entry["files"][split]}, split=split)
        else:
            data = load_dataset(entry["path"], entry["config"], split=split)
    except Exception as error:  # the package raises many kinds, of several libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(f"dataset {name} ({split}) cannot be loaded ({reason}): it is downloaded from the Hugging Face "
                          "hub; fill its cache where there is a network, or give a local file with --source") from error
    join = " " if name == "ptb" and split == "train" else entry["join"]
    return data[entry["field"]], join


def check_ids(row, where):
    if not isinstance(row, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in row):
        raise SourceError(f"{where}: expected a list of integer token ids")
    return row


def id_documents(path):
    """Rows of token ids: .npy (1-D or 2-D), .json (a list, or a list of lists), .jsonl (lists or {"input_ids": [...]})."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        import numpy as np

        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SourceError(f"{path} cannot be read as .npy: {error}") from error
        if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.integer):
            raise SourceError(f"{path} holds {array.dtype} of {array.ndim} dimensions: expected integers of 1 or 2")
        return [row.tolist() for row in np.atleast_2d(array)]
    if suffix == ".jsonl":
        rows = [(number, record.get("input_ids") if isinstance(record, dict) else record)
                for number, record in json_lines(path)]
        return [check_ids(row, f"{path}:{number}") for number, row in rows]
    if suffix == ".json":
        try:
            value = json.loads(read_utf8(path))
        except ValueError as error:
            raise SourceError(f"{path} is not JSON: {error}") from error
        if isinstance(value, list) and value and isinstance(value[0], list):
            return [check_ids(row, f"{path}, row {i}") for i, row in enumerate(value)]
        return [check_ids(value, path)]
    raise SourceError(f"--ids {path}: the name must end in .json, .jsonl or .npy")
