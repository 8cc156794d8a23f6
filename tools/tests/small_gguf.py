"""Small GGUF files as llama.cpp's converter would write them, for test_fetch_demo_model.py."""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import gguf_gemma3  # noqa: E402
import gguf_llama  # noqa: E402

HIDDEN, HEADS, HEAD_DIM, INNER, BLOCKS = 64, 2, 32, 96, 7
CONTROL, USER_DEFINED, NORMAL, BYTE = 3, 4, 1, 6
# Gemma's words: runs of spaces are spelled with spaces, single ones with the mark; words' order is the merges' order.
GEMMA_WORDS = {"<pad>": CONTROL, "<eos>": CONTROL, "<bos>": CONTROL, "<unk>": CONTROL, "<turn>": CONTROL, "<b>": USER_DEFINED,
               "  ": NORMAL, "ab": NORMAL, "bc": NORMAL, "abc": NORMAL, "▁abc": NORMAL, "▁": NORMAL, "a": NORMAL,
               "b": NORMAL, "c": NORMAL, "<0x21>": BYTE}
SMOLLM_WORDS = {"<|end|>": CONTROL, "a": NORMAL, "b": NORMAL, "Ġ": NORMAL, "1": NORMAL, "2": NORMAL, "ab": NORMAL,
                "Ġab": NORMAL, "12": NORMAL}


def bf16(values):
    """Rounds float32 to the nearest bf16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)


class SmallGguf:
    """A GGUF file as llama.cpp's converter would write it, and the weights that went in."""

    def __init__(self, architecture, words, seed=0):
        self.generator = np.random.default_rng(seed)
        self.words, self.architecture = words, architecture
        self.value_length = HEAD_DIM
        self.norm_offset = 1 if architecture == "gemma3" else 0
        self.keys, self.weights, self.expected = {}, {}, {}
        self.add_matrix("token_embd.weight", "model.embed_tokens.weight", (len(words), HIDDEN))
        self.add_norm("output_norm.weight", "model.norm.weight", HIDDEN)

    def add_matrix(self, name, target, shape, stored=None):
        """`stored` turns the weight into what GGUF holds."""
        weight = self.generator.normal(size=shape).astype(np.float32)
        packed = quants.quantize(weight if stored is None else stored(weight), GGMLQuantizationType.Q8_0)
        self.weights[name] = packed, GGMLQuantizationType.Q8_0
        # Q8_0's blocks lie along the row, so that what was rounded is each row's: comparable after rows move
        self.expected[target] = bf16(quants.dequantize(quants.quantize(weight, GGMLQuantizationType.Q8_0),
                                                       GGMLQuantizationType.Q8_0))

    def add_norm(self, name, target, size):
        weight = np.round(self.generator.normal(size=size) * 64).astype(np.float32) / 64  # as exact as bf16
        self.weights[name] = weight + np.float32(self.norm_offset), None
        self.expected[target] = weight

    def add_blocks(self, table, stored=None):
        sizes = {"attn_q": (HEADS * HEAD_DIM, HIDDEN), "attn_k": (HEAD_DIM, HIDDEN), "attn_v": (HEAD_DIM, HIDDEN),
                 "attn_output": (HIDDEN, HEADS * HEAD_DIM), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
                 "ffn_down": (HIDDEN, INNER)}
        for block in range(BLOCKS):
            for name, target in table.items():
                kind, target = name.removesuffix(".weight"), f"model.layers.{block}.{target}"
                if kind in sizes:
                    self.add_matrix(f"blk.{block}.{name}", target, sizes[kind], (stored or {}).get(kind))
                else:
                    self.add_norm(f"blk.{block}.{name}", target, HEAD_DIM if kind[-6:] in ("q_norm", "k_norm") else HIDDEN)

    def write(self, path):
        writer = GGUFWriter(str(path), self.architecture)
        writer.add_context_length(128)
        writer.add_embedding_length(HIDDEN)
        writer.add_block_count(BLOCKS)
        writer.add_feed_forward_length(INNER)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(1)
        writer.add_key_length(HEAD_DIM)
        writer.add_value_length(self.value_length)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_token_list(list(self.words))
        writer.add_token_types(list(self.words.values()))
        for method, value in self.keys.items():
            getattr(writer, method)(value)
        for name, (weight, kind) in self.weights.items():
            writer.add_tensor(name, weight, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def gemma_gguf():
    gguf = SmallGguf("gemma3", GEMMA_WORDS)
    gguf.add_blocks(gguf_gemma3.BLOCK_TENSORS)
    gguf.keys = {"add_rope_freq_base": 1e6, "add_sliding_window": 16, "add_tokenizer_model": "llama",
                 "add_tokenizer_pre": "default", "add_token_scores": [-1000.0] * len(GEMMA_WORDS), "add_pad_token_id": 0,
                 "add_eos_token_id": 1, "add_bos_token_id": 2, "add_unk_token_id": 3, "add_add_bos_token": True,
                 "add_add_space_prefix": False}
    return gguf


def interleaved(heads):
    """llama.cpp's order of a head's rows: each rotary pair side by side."""
    return lambda weight: weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def llama_gguf():
    gguf = SmallGguf("llama", SMOLLM_WORDS)
    gguf.add_blocks(gguf_llama.BLOCK_TENSORS, {"attn_q": interleaved(HEADS), "attn_k": interleaved(1)})
    gguf.keys = {"add_rope_freq_base": 1e5, "add_tokenizer_model": "gpt2", "add_tokenizer_pre": "smollm",
                 "add_token_merges": ["a b", "Ġ ab", "1 2"], "add_bos_token_id": 0, "add_eos_token_id": 0}
    return gguf
