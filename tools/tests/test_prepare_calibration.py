"""Tests of tools/prepare_calibration.py: what it writes, and what it refuses. Run by tools/test.sh."""

import contextlib
import hashlib
import io
import json
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS / "lib")]

import prepare_calibration  # noqa: E402
from html_text import text_of_html  # noqa: E402
from text_sources import SourceError  # noqa: E402

WORDS = [f"w{i}" for i in range(50)]


class PrepareCalibration(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.model = self.folder / "model"
        self.model.mkdir()
        self.write_config(vocab_size=64, max_position_embeddings=32, pad_token_id=63)
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.enable_truncation(3)  # a setting of the file that must not cut the text
        tokenizer.save(str(self.model / "tokenizer.json"))
        generator = random.Random(7)
        self.ids = [generator.randrange(50) for _ in range(400)]
        self.text = self.write("text.txt", " ".join(WORDS[i] for i in self.ids))
        self.output = self.folder / "out.h5"

    def write(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def write_config(self, **values):
        (self.model / "config.json").write_text(json.dumps(values))

    def run_tool(self, *arguments):
        arguments = ["--model", self.model, "--output", self.output, *arguments]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            prepare_calibration.main([str(argument) for argument in arguments])
        self.printed = printed.getvalue()
        with h5py.File(self.output) as file:
            return file["input_ids"][:], file["lengths"][:], dict(file.attrs), int(file["input_ids"].attrs["pad_id"])

    def assert_refused(self, message, *arguments):
        with self.assertRaisesRegex(SourceError, message) as caught:
            self.run_tool(*arguments)
        self.assertNotIn("\n", str(caught.exception))
        self.assertEqual([], [path for path in self.folder.iterdir() if "out.h5" in path.name])

    def test_windows_are_those_of_the_literature(self):
        ids, lengths, attributes, _ = self.run_tool("--source", self.text, "--nsamples", 5, "--seqlen", 16, "--seed", 3)
        generator = random.Random(3)
        starts = [generator.randint(0, 400 - 16 - 1) for _ in range(5)]
        self.assertEqual([self.ids[s: s + 16] for s in starts], ids.tolist())
        self.assertEqual([16] * 5, lengths.tolist())
        self.assertEqual((5, 16, 3, 64, 1, "windows", "text.txt"), tuple(
            attributes[key] for key in ("nsamples", "seqlen", "seed", "vocab_size", "version", "mode", "source")))

    def test_describes_itself(self):
        ids, lengths, attributes, pad_id = self.run_tool("--source", self.text, "--nsamples", 4, "--seqlen", 8)
        self.assertEqual(np.dtype("<i4"), ids.dtype)
        self.assertEqual("gptq-hpc-calibration", attributes["format"])
        self.assertEqual(hashlib.sha256(ids.tobytes() + lengths.tobytes()).hexdigest(), attributes["sha256"])
        self.assertEqual(prepare_calibration.vocabulary_sha256(self.model / "tokenizer.json"),
                         attributes["vocabulary_sha256"])
        self.assertEqual(63, pad_id)

    def test_a_tokenizer_saved_in_another_form_has_the_same_vocabulary(self):
        path = self.model / "tokenizer.json"
        expected = "59dbac0a809f1544b19a45deba374fe2af77861cc59f5dc75ac2f05364141f35"  # the same as in tests/unit/io_calibration_test.cpp
        for tokenizer in (
            {"model": {"vocab": {"é": 0, "b": 1}}, "added_tokens": [{"id": 1, "content": "b"}]},
            {"model": {"vocab": {"b": 1, "é": 0}}},
            {"model": {"type": "Unigram", "vocab": [["é", -1.5], ["b", -2]]}},
        ):
            path.write_text(json.dumps(tokenizer), encoding="utf-8")
            self.assertEqual(expected, prepare_calibration.vocabulary_sha256(path))

    def test_same_seed_same_file(self):
        first = self.run_tool("--source", self.text, "--nsamples", 4, "--seqlen", 8)
        self.assertTrue(np.array_equal(first[0], self.run_tool("--source", self.text, "--nsamples", 4, "--seqlen", 8)[0]))

    def test_contiguous_windows_do_not_overlap(self):
        ids, _, attributes, _ = self.run_tool("--source", self.text, "--contiguous", "--seqlen", 30)
        self.assertEqual(self.ids[: 13 * 30], ids.ravel().tolist())
        self.assertEqual("contiguous", attributes["mode"])

    def begin_texts_with_a_bos_token(self):
        self.write_config(vocab_size=64, bos_token_id=49)
        path = str(self.model / "tokenizer.json")
        tokenizer = Tokenizer.from_file(path)
        tokenizer.post_processor = processors.TemplateProcessing(single="w49 $A", special_tokens=[("w49", 49)])
        tokenizer.save(path)

    def test_every_window_begins_with_bos(self):
        self.begin_texts_with_a_bos_token()
        plain, *_ = self.run_tool("--source", self.text, "--contiguous", "--seqlen", 8, "--nsamples", 2)
        self.assertEqual([49, *self.ids[:15]], plain.ravel().tolist(), "without --bos the tokenizer begins the text alone")
        ids, lengths, *_ = self.run_tool("--source", self.text, "--contiguous", "--seqlen", 8, "--nsamples", 2, "--bos")
        self.assertEqual([[49, *self.ids[:7]], [49, *self.ids[7:14]]], ids.tolist())
        self.assertEqual([8, 8], lengths.tolist())
        ids, *_ = self.run_tool("--source", self.text, "--seqlen", 8, "--nsamples", 3, "--bos")
        start = random.Random(0).randint(0, 400 - 7 - 1)
        self.assertEqual([49, *self.ids[start: start + 7]], ids[0].tolist())
        ids, *_ = self.run_tool("--source", self.write_rows(5, 9), "--mode", "rows", "--pack", "--seqlen", 7, "--nsamples",
                                2, "--bos")
        self.assertEqual([[49, *range(6)], [49, *range(6, 12)]], ids.tolist(), "documents get none of their own")

    def test_refuses_bos_where_it_is_none_of_its_business(self):
        self.begin_texts_with_a_bos_token()
        self.assert_refused("--bos goes with windows", "--ids", self.write("a.json", "[1, 2]"), "--bos")
        self.assert_refused("--bos goes with windows", "--source", self.text, "--mode", "rows", "--bos")
        self.assert_refused("at least 3 tokens", "--source", self.text, "--seqlen", 2, "--bos")
        self.write_config(vocab_size=64)
        self.assert_refused("has no bos_token_id", "--source", self.text, "--bos")

    def test_seqlen_is_capped_with_a_note(self):
        ids, *_ = self.run_tool("--source", self.text, "--nsamples", 2, "--seqlen", 2048)
        self.assertEqual(32, ids.shape[1])
        self.assertIn("max_position_embeddings", self.printed)

    def test_rows_are_padded_cut_and_filtered(self):
        records = [" ".join(WORDS[:n]) for n in (1, 4, 12, 3)]
        source = self.write("r.jsonl", "\n".join(json.dumps({"body": record}) for record in records))
        ids, lengths, *_ = self.run_tool("--source", source, "--text-field", "body", "--mode", "rows", "--nsamples", 2,
                                         "--seqlen", 8, "--min-length", 4)
        self.assertEqual([[0, 1, 2, 3, 63, 63, 63, 63], list(range(8))], ids.tolist())
        self.assertEqual([4, 8], lengths.tolist())

    def write_rows(self, *lengths):
        first, rows = 0, []
        for length in lengths:
            rows.append(" ".join(WORDS[(first + i) % 50] for i in range(length)))
            first += length
        return self.write("rows.jsonl", "\n".join(json.dumps({"text": row}) for row in rows))

    def test_rows_are_sorted_and_stay_the_same(self):
        options = ("--source", self.write_rows(3, 7, 5, 7), "--mode", "rows", "--nsamples", 4, "--seqlen", 8)
        unsorted, lengths, *_ = self.run_tool(*options)
        self.assertEqual([3, 7, 5, 7], lengths.tolist())
        longest, lengths, *_ = self.run_tool(*options, "--sort", "longest")
        self.assertEqual([7, 7, 5, 3], lengths.tolist())
        self.assertEqual(unsorted[[1, 3, 2, 0]].tolist(), longest.tolist(), "equally long rows keep their order")
        self.assertEqual([3, 5, 7, 7], self.run_tool(*options, "--sort", "shortest")[1].tolist())

    def test_packed_rows_leave_no_padding(self):
        options = ("--mode", "rows", "--pack", "--seqlen", 6, "--nsamples", 2)
        ids, lengths, attributes, _ = self.run_tool("--source", self.write_rows(5, 1, 9), *options, "--min-length", 1)
        self.assertEqual([list(range(6)), list(range(6, 12))], ids.tolist())
        self.assertEqual([6, 6], lengths.tolist())
        self.assertEqual("packed", attributes["mode"])
        ids, *_ = self.run_tool("--source", self.write_rows(5, 1, 9), *options)
        self.assertEqual([[0, 1, 2, 3, 4, 6], list(range(7, 13))], ids.tolist(), "the row of one token is too short")
        ids, *_ = self.run_tool("--source", self.write_rows(4, 4, 4), *options, "--separator", "w49")
        self.assertEqual([[0, 1, 2, 3, 49, 4], [5, 6, 7, 49, 8, 9]], ids.tolist())

    def test_refuses_too_few_rows_to_pack(self):
        self.assert_refused("packs into 2 samples of 6 tokens, not 3", "--source", self.write_rows(5, 9), "--mode", "rows",
                            "--pack", "--seqlen", 6, "--nsamples", 3)

    def test_padding_is_masked(self):
        options = ("--source", self.write_rows(3, 12, 5), "--mode", "rows", "--nsamples", 3, "--pad-to", 8)
        for side in ("left", "right"):
            ids, lengths, attributes, _ = self.run_tool(*options, "--pad-side", side)
            with h5py.File(self.output) as file:
                mask = file["attention_mask"][:]
            self.assertEqual(2, attributes["version"])
            self.assertEqual(8, attributes["seqlen"])
            self.assertEqual(np.dtype("<i4"), mask.dtype)
            self.assertEqual([3, 8, 5], mask.sum(axis=1).tolist(), "longer rows are cut")
            self.assertEqual([0, 1, 2], ids[0][mask[0] == 1].tolist())
            self.assertEqual([63] * 5, ids[0][mask[0] == 0].tolist())
            self.assertEqual([8, 8, 8] if side == "left" else [3, 8, 5], lengths.tolist())
            self.assertEqual(0 if side == "left" else 1, mask[0, 0])
            self.assertEqual(hashlib.sha256(mask.tobytes() + ids.tobytes() + lengths.tobytes()).hexdigest(),
                             attributes["sha256"])

    def test_refuses_row_options_elsewhere(self):
        rows = ("--source", self.write_rows(9, 9), "--mode", "rows", "--nsamples", 1, "--seqlen", 8)
        for option in (("--pack",), ("--sort", "longest"), ("--pad-to", 8), ("--min-length", 4)):
            self.assert_refused("applies to --mode rows only", "--source", self.text, *option)
        self.assert_refused("do not go with it", *rows, "--pack", "--pad-to", 8)
        self.assert_refused("do not go with it", *rows, "--pack", "--sort", "longest")
        self.assert_refused("--separator goes with --pack", *rows, "--separator", "x")
        self.assert_refused("at least 2 tokens", *rows, "--pad-to", 0)
        self.assert_refused("--pad-side goes with --pad-to", *rows, "--pad-side", "left")

    def test_text_blocks_are_rows(self):
        ids, lengths, *_ = self.run_tool("--source", self.write("b.txt", "w1 w2\n\nw3 w4 w5\n\n\n"), "--mode", "rows",
                                         "--nsamples", 2, "--seqlen", 4)
        self.assertEqual([2, 3], lengths.tolist())

    def test_pretokenized_ids(self):
        stream = np.array(self.ids, dtype=np.int64)
        np.save(self.folder / "ids.npy", stream)
        rows = [self.ids[:10], self.ids[10:15]]
        forms = {"ids.json": json.dumps(rows), "ids.jsonl": "\n".join(json.dumps({"input_ids": row}) for row in rows)}
        for name, content in forms.items():
            ids, lengths, *_ = self.run_tool("--ids", self.write(name, content), "--mode", "rows", "--nsamples", 2)
            self.assertEqual([10, 5], lengths.tolist())
            self.assertEqual(rows[1], ids[1, :5].tolist())
        ids, *_ = self.run_tool("--ids", self.folder / "ids.npy", "--contiguous", "--seqlen", 32)
        self.assertEqual(self.ids[:32], ids[0].tolist())

    def test_html_is_stripped(self):
        page = "<html><head><title>w9</title></head><body><div class='toc'>w8</div><p>w1 <b>w2</b></p><pre>w3\nw4</pre></body>"
        self.assertEqual("w1 w2\n\nw3\nw4\n", text_of_html(page))
        ids, *_ = self.run_tool("--source", self.write("p.html", page), "--contiguous", "--seqlen", 4)
        self.assertEqual([[1, 2, 3, 4]], ids.tolist())

    def test_refuses_bad_sources(self):
        self.assert_refused("neither a file nor one of wikitext2", "--source", self.folder / "absent.txt")
        self.assert_refused("holds no text", "--source", self.write("empty.txt", " \n"))
        self.assert_refused("not UTF-8", "--source", self.write("latin.txt", b"caf\xe9"))
        self.assert_refused("fewer than one window", "--source", self.write("short.txt", "w1 w2"))
        self.assert_refused("not 99", "--source", self.text, "--contiguous", "--nsamples", 99)
        self.assert_refused("rows of at least 2", "--source", self.text, "--mode", "rows")
        self.assert_refused(":2 has no text field 'text'", "--source",
                            self.write("f.jsonl", '{"text": "w1"}\n{"body": "w1"}'))
        self.assert_refused(":1 is not JSON", "--source", self.write("g.jsonl", "{"))

    def test_refuses_bad_ids(self):
        self.assert_refused("token id 64 .sample 0, position 2. is outside", "--ids", self.write("a.json", "[1, 2, 64, 4]"),
                            "--contiguous", "--seqlen", 4)
        self.assert_refused("token id -1", "--ids", self.write("b.json", "[1, -1]"), "--contiguous", "--seqlen", 2)
        self.assert_refused("no token ids", "--ids", self.write("c.json", "[]"))
        self.assert_refused("integer token ids", "--ids", self.write("d.json", '["a"]'))
        self.assert_refused("must end in", "--ids", self.write("e.bin", "x"))
        np.save(self.folder / "float.npy", np.zeros(4))
        self.assert_refused("expected integers", "--ids", self.folder / "float.npy")

    def test_refuses_ids_of_another_tokenizer(self):
        self.write_config(vocab_size=40)
        self.assert_refused("belong to another model", "--source", self.text, "--seqlen", 300)

    def test_refuses_bad_models_and_options(self):
        self.assert_refused("--nsamples 0", "--source", self.text, "--nsamples", 0)
        self.assert_refused("--seqlen 1:", "--source", self.text, "--seqlen", 1)
        self.assert_refused("invalid int value", "--source", self.text, "--seqlen", "many")
        self.assert_refused("rows only", "--source", self.text, "--min-length", 3)
        self.assert_refused("existing directory", "--source", self.text, "--output", self.folder / "no" / "x.h5")
        (self.model / "tokenizer.json").write_text("{}")
        self.assert_refused("tokenizer.json is not a tokenizer", "--source", self.text)
        (self.model / "tokenizer.json").unlink()
        self.assert_refused("--ids", "--source", self.text)
        self.write_config(hidden_size=3)
        self.assert_refused("no usable vocab_size", "--source", self.text)
        (self.model / "config.json").unlink()
        self.assert_refused("no config.json", "--source", self.text)

    def test_command_line_exits_with_2_and_one_line(self):
        done = subprocess.run([sys.executable, TOOLS / "prepare_calibration.py", "--model", self.model, "--source",
                               self.folder / "absent", "--output", self.output], capture_output=True, text=True)
        self.assertEqual(2, done.returncode)
        self.assertEqual(1, done.stderr.count("\n"))


if __name__ == "__main__":
    unittest.main()
