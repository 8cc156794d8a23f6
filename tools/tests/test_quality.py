"""The quality table of tools/bench: its recipes, its queue and its report."""

import argparse
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import dither_model  # noqa: E402
import numpy as np  # noqa: E402
import quality  # noqa: E402
import quality_report  # noqa: E402
from measure import CommandFailed, measure  # noqa: E402
from recipes import Table, TableError  # noqa: E402

SMALL_TABLE = """
settings:
  w4: {label: W4, bits: 4, group_size: 128}
  w3: {label: W3, bits: 3, group_size: 128}
recipes:
  gptqmodel-default: {system: gptqmodel, label: Peer}
  ours-default: {system: ours, label: Ours, bundle: true, set: {quantization.sym: true, quantization.best_of: []}}
  ours-rtn: {system: ours, label: RTN, settings: [w3], set: {quantization.method: rtn}}
first:
  - [[ours-default], [w3]]
"""
MEASURED = {"seconds": 10.0, "cpu_seconds": 20.0, "peak_pss_bytes": 5e8, "weight_bytes": 1e8, "quiet": True}


def small_table(text=SMALL_TABLE):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.yaml"
        path.write_text(text)
        return Table(path)


def result(recipe, a, b, system="gptqmodel", **more):
    return {"recipe": recipe, "setting": "w4", "system": system, "label": recipe, "bundle": system == "ours",
            "perplexity_a": a, "perplexity_b": b, **MEASURED, **more}


class TableTest(unittest.TestCase):
    def test_the_repositorys_table_is_consistent(self):
        table = Table()
        names = [pair.name for pair in table.pairs()]
        self.assertEqual(len(names), len(set(names)))
        self.assertTrue(set(table.adopt) <= set(names))
        self.assertIn(quality_report.REFERENCE, table.recipes)

    def test_first_goes_first_and_nothing_is_lost(self):
        names = [pair.name for pair in small_table().pairs()]
        self.assertEqual(names, ["ours-default@w3", "gptqmodel-default@w4", "ours-default@w4", "gptqmodel-default@w3",
                                 "ours-rtn@w3"])

    def test_selection_by_recipe_system_and_setting(self):
        names = [pair.name for pair in small_table().select(["ours"], ["w3"])]
        self.assertEqual(names, ["ours-default@w3", "ours-rtn@w3"])
        self.assertEqual(len(small_table().select(["gptqmodel-default"], [])), 2)

    def test_unknown_names_are_refused(self):
        with self.assertRaisesRegex(TableError, "no recipe or system other"):
            small_table().select(["other"], [])
        with self.assertRaisesRegex(TableError, "ours-rtn is not measured at w4"):
            small_table().select(["ours-rtn"], ["w4"])
        with self.assertRaisesRegex(TableError, "no system typo"):
            small_table(SMALL_TABLE.replace("system: gptqmodel", "system: typo"))
        with self.assertRaisesRegex(TableError, "no setting w5"):
            small_table(SMALL_TABLE.replace("[w3], set", "[w5], set"))


class QueueTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)
        (self.root / "samples").mkdir()
        (self.root / "samples" / "calibration.h5").write_bytes(b"samples")
        self.args = argparse.Namespace(
            folder=self.root / "queue", samples=self.root / "samples", cache=self.root / "cache", ranks=2,
            model=self.root / "cache" / "model", program=self.root / "program", workload="a model",
            keep_models=False, limit_seconds=10, adopt=False)
        self.quantized = []
        quiet = unittest.mock.patch.object(quality, "say")
        quiet.start()
        self.addCleanup(quiet.stop)

    def queue(self, fail=None, fail_evaluation=None, text=SMALL_TABLE):
        queue = quality.Queue(self.args, small_table(text))

        def quantize(pair, output):
            if pair.name == fail:
                raise CommandFailed("it ended with code 1\nTraceback\nValueError: 576 columns\nbye")
            self.quantized.append(pair.name)
            output.mkdir(parents=True)
            return dict(MEASURED)

        def evaluate(name, _system, _model):
            if name == fail_evaluation:
                raise CommandFailed("OSError: no space")
            return {"perplexity_a": 20.0, "perplexity_b": 30.0}

        queue.quantize, queue.systems.evaluate = quantize, evaluate
        queue.versions = lambda pair: {}
        return queue

    def run_all(self, queue, again=False):
        return quality.measure_all(queue, queue.table.pairs(), again)

    def test_what_is_there_is_skipped(self):
        self.assertEqual(self.run_all(self.queue()), [])
        self.assertEqual(len(self.quantized), 5)
        self.run_all(self.queue())
        self.assertEqual(len(self.quantized), 5)
        self.run_all(self.queue(), again=True)
        self.assertEqual(len(self.quantized), 10)

    def test_a_failure_is_a_row_with_its_reason(self):
        queue = self.queue(fail="gptqmodel-default@w3")
        self.assertEqual(self.run_all(queue), ["gptqmodel-default@w3"])
        rows = {row["recipe"] + "@" + row["setting"]: row for row in queue.document()["results"]}
        self.assertEqual(rows["gptqmodel-default@w3"]["failed"], "ValueError: 576 columns")
        self.assertEqual(len(rows), 5)
        self.assertEqual(self.run_all(self.queue()), [])  # a failure is not tried again unasked
        self.assertEqual(len(self.quantized), 4)

    def test_a_failed_evaluation_keeps_the_measurement(self):
        queue = self.queue(fail_evaluation="ours-rtn@w3")
        self.assertEqual(self.run_all(queue), ["ours-rtn@w3"])
        self.assertEqual(self.run_all(self.queue()), [])
        self.assertEqual(self.quantized.count("ours-rtn@w3"), 1)

    def test_other_options_or_samples_make_a_result_stale(self):
        self.run_all(self.queue())
        other = self.queue(text=SMALL_TABLE.replace("method: rtn", "method: gptq"))
        self.assertEqual([pair.name for pair in other.table.pairs() if other.state(pair) == "waits"], ["ours-rtn@w3"])
        (self.root / "samples" / "calibration.h5").write_bytes(b"other samples")
        queue = self.queue()
        self.assertTrue(all(queue.state(pair) == "waits" for pair in queue.table.pairs()))

    def test_values_of_our_options_are_yaml(self):
        queue = self.queue()
        pair = next(pair for pair in queue.table.pairs() if pair.name == "ours-default@w3")
        command = queue.command(pair, Path("out"))
        self.assertIn("quantization.sym=true", command)
        self.assertIn("quantization.best_of=[]", command)
        self.assertIn("quantization.bits=3", command)

    def test_stored_commands_name_no_folder_of_this_machine(self):
        queue = self.queue()
        text = queue.portable(f"{self.args.program} --set model.path={self.args.model} {quality.REPO}/tools/x.py")
        self.assertEqual(text, "build/cpu/gptq-hpc --set model.path=.cache/model tools/x.py")


class MeasureTest(unittest.TestCase):
    def test_a_command_past_its_limit_is_ended(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(CommandFailed, "not finished after 0.2 s"):
                measure([sys.executable, "-c", "import time; time.sleep(60)"], Path(folder) / "log", None, 0.2)


class ReportTest(unittest.TestCase):
    SOURCE = {"label": "source", "perplexity_a": 10.0, "perplexity_b": 20.0}

    def document(self, *results):
        names = {name["recipe"]: name["label"] for name in results}
        return {"workload": "a model", "machine": {"cores": 2, "cpu": "CPU", "bf16": [], "memory_bytes": 2**30},
                "source": self.SOURCE, "settings": {"w4": "W4"}, "recipes": names, "results": list(results)}

    def test_gap_closed(self):
        reference = result("gptqmodel-default", 20.0, 40.0)
        ours = result("ours-default", 12.0, 45.0, "ours")
        self.assertAlmostEqual(quality_report.gap_closed(ours, reference, self.SOURCE, "perplexity_a"), 0.8)
        self.assertAlmostEqual(quality_report.gap_closed(ours, reference, self.SOURCE, "perplexity_b"), -0.25)
        text = quality_report.markdown(self.document(reference, ours))
        self.assertIn("| ours-default | 12.00 | 45.00 | 80 % | -25 % | 10 s | 20 s | 0.50 GB | 100 MB |", text)

    def test_the_best_peer_is_found_on_each_text_alone(self):
        text = quality_report.markdown(self.document(
            result("gptqmodel-default", 20.0, 40.0), result("good-on-a", 14.0, 50.0),
            result("ours-rtn", 11.0, 21.0, "ours", bundle=False), result("ours-default", 13.0, 41.0, "ours")))
        self.assertIn("| W4 | ours-default | 13.00 beats 14.00 (good-on-a) | 41.00 **does not beat** 40.00 "
                      "(gptqmodel-default) |", text)

    def test_violations_of_refinement_are_counted(self):
        entry = {"layers": 3, "raised_layers": 1, "raised_rows": 7, "least_gain": -0.01, "mean_gain": 0.1}
        text = " ".join(quality_report.refinement([result("ours-best", 2, 2, "ours", refinement=entry)]))
        self.assertIn("raised the loss of 1 layers and 7 rows", text)
        self.assertEqual(quality_report.refinement([result("ours-fast", 2, 2, "ours")]), [])

    def test_failures_and_busy_machines_are_shown(self):
        failed = {"recipe": "peer", "setting": "w4", "system": "llmcompressor", "label": "peer", "bundle": False,
                  "failed": "ValueError: a | b"}
        text = quality_report.markdown(self.document(failed, result("ours-default", 12.0, 21.0, "ours", quiet=False)))
        self.assertIn("| peer | fails: ValueError: a \\| b |", text)
        self.assertIn("(10 s)", text)
        self.assertIn("| peer | fails |", text)

    def test_prose_around_the_table_stays(self):
        begin, end = quality_report.markers("quality")
        other = "\n".join(quality_report.markers("dithered"))
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "quality.md"
            page.write_text(f"before\n{begin}\nold\n{end}\nafter\n{other}\n")
            quality_report.replace_in_page(page, "quality", "new\n")
            quality_report.replace_in_page(page, "quality", "newer\n")
            self.assertEqual(page.read_text(), f"before\n{begin}\n\nnewer\n\n{end}\nafter\n{other}\n")
            page.write_text("no markers")
            with self.assertRaises(quality_report.PageError):
                quality_report.replace_in_page(page, "quality", "new\n")


class DitherTest(unittest.TestCase):
    def grid(self):
        generator = np.random.default_rng(1)
        levels = generator.integers(0, 16, (4, 64)).astype(np.float32)
        levels.reshape(-1, 32)[:, :2] = (0, 15)
        return levels * np.float32(0.25) - 1

    def test_weights_leave_the_grid_by_half_a_step_at_most(self):
        before = self.grid()
        after = dither_model.dithered("w", before, np.random.default_rng(0))
        difference = np.abs(after - before)
        self.assertLessEqual(difference.max(), 0.125)
        self.assertGreater(difference.max(), 0.11)
        self.assertGreater(len(np.unique(after.reshape(-1, 32)[0])), 30)

    def test_another_model_is_refused(self):
        weight = np.random.default_rng(0).random((2, 32), dtype=np.float32)
        with self.assertRaisesRegex(dither_model.NotOnGrid, "down_proj has 32 values"):
            dither_model.dithered("down_proj", weight, np.random.default_rng(0))


if __name__ == "__main__":
    unittest.main()
