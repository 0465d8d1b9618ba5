"""Runs in a virtual environment that has the wheel, at the root of a checkout or with FIXTURES naming its Fixtures."""

import os
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import peft_tool

FIXTURES = Path(os.environ.get("FIXTURES") or Path(__file__).resolve().parents[3] / "Fixtures")
CASE = FIXTURES / "merge/llama-f32-qv"


class PeftToolTests(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)

    def test_the_binary_is_the_one_of_the_wheel(self):
        self.assertTrue(peft_tool.binary().startswith(os.path.abspath(sys.prefix)))
        said = subprocess.run([peft_tool.binary(), "--version"], capture_output=True, text=True).stdout
        self.assertEqual(said, f"peft-tool {peft_tool.version()}\n")
        module = subprocess.run([sys.executable, "-m", "peft_tool", "--version"], capture_output=True, text=True).stdout
        self.assertEqual(module, said)

    def test_merge_verify_diff_and_unmerge_answer_with_dictionaries_and_progress(self):
        steps = []
        out = self.scratch / "out"
        answer = peft_tool.merge(
            CASE / "base", CASE / "adapter", out, on_progress=lambda done, total: steps.append((done, total)))
        self.assertEqual((answer["matched"], answer["tensors"]), (4, 21))
        self.assertEqual(steps[-1][0], steps[-1][1])
        self.assertTrue(peft_tool.verify(CASE / "base", CASE / "adapter", out)["agree"])
        self.assertFalse(peft_tool.verify(CASE / "base", f"{CASE / 'adapter'}:0.5", out)["agree"])
        self.assertTrue(peft_tool.diff(out, CASE / "merged", tolerance=1e-6)["agree"])
        back = peft_tool.unmerge(out, CASE / "adapter", self.scratch / "back")
        self.assertEqual(back["restoration"], "last-merge")

    def test_inspect_count_validate_init_convert_and_tree(self):
        self.assertEqual(peft_tool.inspect(CASE / "adapter")["r"], 4)
        self.assertTrue(peft_tool.inspect(CASE / "adapter", base=CASE / "base")["base"]["compatible"])
        self.assertGreater(peft_tool.count(CASE / "base", CASE / "adapter")["trainable"], 0)
        self.assertTrue(peft_tool.validate(CASE / "adapter")["valid"])
        made = peft_tool.init(CASE / "base", CASE / "adapter/adapter_config.json", self.scratch / "new", seed=3)
        self.assertEqual(made["modules"], 4)
        self.assertEqual(peft_tool.convert(self.scratch / "new", self.scratch / "again")["kind"], "adapter")
        self.assertTrue(peft_tool.tree(FIXTURES / "running/base").startswith("LlamaForCausalLM("))

    def test_every_command_that_answers_has_a_function(self):
        overview = subprocess.run([peft_tool.binary(), "--help"], capture_output=True, text=True).stdout
        commands = overview.split("Commands:")[1].split("Options")[0].split("\n")
        names = {line.split()[0].replace("-", "_") for line in commands if line.strip()}
        self.assertGreater(len(names), 10)
        self.assertEqual(names - set(peft_tool.__all__), {"chat", "completions", "man"})

    def test_the_workbench_makes_adapters_of_adapters(self):
        peft_tool.combine(CASE / "adapter", f"{CASE / 'adapter'}:0.5", self.scratch / "sum")
        peft_tool.resize(self.scratch / "sum", self.scratch / "small", rank=2)
        self.assertEqual(peft_tool.inspect(self.scratch / "small")["r"], 2)
        peft_tool.to_lora(self.scratch / "small", self.scratch / "lora", rank=1)
        self.assertEqual(peft_tool.inspect(self.scratch / "lora")["r"], 1)

    def test_generate_gives_one_answer_or_a_list(self):
        chat = FIXTURES / "running/chat"
        one = peft_tool.generate(chat, "The quick brown", max_new_tokens=4, ignore_eos=True)
        self.assertEqual(len(one["tokens"]), 4)
        prompts = self.scratch / "prompts.jsonl"
        prompts.write_text('"a"\n"b"\n')
        self.assertEqual(len(peft_tool.generate(chat, None, prompts=prompts, max_new_tokens=2)), 2)

    def test_a_failure_raises_the_commands_own_sentence(self):
        with self.assertRaises(peft_tool.Error) as caught:
            peft_tool.inspect("/nonexistent")
        self.assertTrue(str(caught.exception).startswith("/nonexistent: no such file"))
        self.assertEqual(caught.exception.code, 2)
        peft_tool.convert(CASE / "base", self.scratch / "out")
        with self.assertRaisesRegex(peft_tool.Error, "Pass --force"):
            peft_tool.merge(CASE / "base", CASE / "adapter", self.scratch / "out")
        with self.assertRaisesRegex(peft_tool.Error, "unknown option '--nonsense'"):
            peft_tool.inspect(CASE / "adapter", nonsense=True)

    def test_an_operand_that_begins_with_a_hyphen_is_no_option(self):
        with self.assertRaisesRegex(peft_tool.Error, "-x: no such file"):
            peft_tool.inspect("-x")

    def test_options_repeat_and_leave_out(self):
        answer = peft_tool.merge(
            CASE / "base", CASE / "adapter", self.scratch / "out", dry_run=True, force=False, max_shard_size=None,
            ignore_config_key=["one", "two"])
        self.assertEqual(answer["matched"], 4)
        self.assertFalse((self.scratch / "out").exists())

    def test_an_exception_while_it_runs_ends_the_command(self):
        def stop(done, total):
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            peft_tool.merge(CASE / "base", CASE / "adapter", self.scratch / "out", on_progress=stop)
        self.assertEqual(threading.active_count(), 1)


if __name__ == "__main__":
    unittest.main()
