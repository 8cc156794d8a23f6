"""What converting a GGUF file to a Hugging Face directory needs whatever the model: metadata, and weights in bf16.

The bytes of a GGUF are read and dequantized by its own package, `gguf`; gguf_llama.py and gguf_gemma3.py know what their
architecture's names and numbers mean.
"""

import json


class ConversionError(Exception):
    """The file cannot be converted; the message says why and what to do."""


class Metadata:
    """The GGUF's key-value pairs; a missing required key is an error that names it."""

    def __init__(self, reader):
        self.fields = reader.fields
        self.architecture = self.require("general.architecture")

    def get(self, key, default=None):
        field = self.fields.get(key)
        return default if field is None else field.contents()

    def require(self, key):
        if key not in self.fields:
            raise ConversionError(f"the GGUF has no {key}")
        return self.fields[key].contents()

    def hyperparameter(self, key):
        return self.require(f"{self.architecture}.{key}")

    def optional_hyperparameter(self, key, default):
        return self.get(f"{self.architecture}.{key}", default)


def open_gguf(path):
    """The file's reader, from the package `gguf`."""
    from gguf import GGUFReader

    try:
        return GGUFReader(str(path))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read as GGUF: {error}") from error


def shortest_float(value):
    """The shortest decimal that is this float32: 1e-05 rather than 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def huggingface_name(name, model_tensors, block_tensors):
    """GGUF's name of a tensor → Hugging Face's, by one table for the model's and one for each block's."""
    if name in model_tensors:
        return model_tensors[name]
    if name.startswith("blk."):
        _, block, rest = name.split(".", 2)
        if rest in block_tensors:
            return f"model.layers.{block}.{block_tensors[rest]}"
    raise ConversionError(f"the GGUF has a tensor {name} that this conversion does not know")


def kind_of(name):
    """blk.7.attn_q.weight → attn_q.weight; names outside blocks stay."""
    return name.split(".", 2)[-1] if name.startswith("blk.") else name


def to_bf16_bytes(array):
    """Round to nearest even, as the bytes of little-endian bf16."""
    import numpy as np

    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    if not np.isfinite(array).all():
        raise ConversionError("the GGUF holds NaN or infinite weights")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_weights(tensors, names, prepare, path):
    """Streams a GGUF's tensors into one safetensors file: a JSON header with every offset, then the bytes in that order.

    `names` are the tensors' Hugging Face names in the same order; `prepare(tensor, weight)` returns the dequantized float32
    weight as Hugging Face's model wants it, of the same shape.
    """
    from gguf.quants import dequantize

    if len(set(names)) != len(names):
        raise ConversionError("the GGUF holds a tensor twice")
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in zip(names, tensors):
        end = offset + 2 * int(tensor.n_elements)
        shape = [int(extent) for extent in reversed(tensor.shape)]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(to_bf16_bytes(prepare(tensor, dequantize(tensor.data, tensor.tensor_type))))


def special_tokens(meta):
    """{bos_token: its word, …} of those that the GGUF names."""
    tokens = meta.require("tokenizer.ggml.tokens")
    ids = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    found = {name: meta.get(f"tokenizer.ggml.{key}_token_id") for name, key in ids.items()}
    return {name: tokens[i] for name, i in found.items() if i is not None}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
