"""Runs in a virtual environment that has the wheel, torch, transformers and PEFT: what each makes, the other takes.

At the root of a checkout, or with FIXTURES naming its Fixtures.
"""

import json
import os
import tempfile
import unittest
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import peft_tool

logging.disable_progress_bar()
logging.set_verbosity_error()
FIXTURES = Path(os.environ.get("FIXTURES") or Path(__file__).resolve().parents[3] / "Fixtures")
CHAT = FIXTURES / "running/chat"
TOKENS = torch.tensor([[3, 17, 8, 29, 1, 5, 36, 11, 2, 20, 7, 33]])


def base(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


class BesidePEFTTests(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)

    def assertClose(self, one, two, bound=1e-5):
        self.assertLessEqual((one - two).abs().max().item(), bound)

    def test_a_model_merged_here_gives_peft_s_logits(self):
        for case in ("llama-f32-qv", "llama-dora", "llama-patterns"):
            root = FIXTURES / "merge" / case
            peft_tool.merge(root / "base", root / "adapter", self.scratch / case)
            found = logits(base(self.scratch / case))
            beside = PeftModel.from_pretrained(base(root / "base"), root / "adapter").eval()
            self.assertClose(found, logits(beside))
            self.assertClose(found, logits(beside.merge_and_unload()))
            self.assertGreater((found - logits(base(root / "base"))).abs().max().item(), 1e-3)

    def test_a_model_merged_by_peft_is_verified_here(self):
        root = FIXTURES / "merge/llama-f32-qv"
        merged = PeftModel.from_pretrained(base(root / "base"), root / "adapter").merge_and_unload()
        merged.save_pretrained(self.scratch / "merged")
        self.assertTrue(peft_tool.verify(root / "base", root / "adapter", self.scratch / "merged", as_peft=True)["agree"])

    def test_an_adapter_made_and_trained_here_is_loaded_by_peft_and_says_the_same(self):
        config = FIXTURES / "running/chatting/first/adapter_config.json"
        peft_tool.init(CHAT, config, self.scratch / "fresh")
        fresh = PeftModel.from_pretrained(base(CHAT), self.scratch / "fresh").eval()
        self.assertClose(logits(fresh), logits(base(CHAT)), 0)
        records = self.scratch / "records.jsonl"
        records.write_text("".join(json.dumps({"text": f"The harbour master wrote line {n}."}) + "\n" for n in range(8)))
        peft_tool.train(CHAT, self.scratch / "fresh", records, self.scratch / "tuned", max_steps=3, learning_rate=0.05)
        tuned = PeftModel.from_pretrained(base(CHAT), self.scratch / "tuned").eval()
        self.assertGreater((logits(tuned) - logits(fresh)).abs().max().item(), 1e-3)
        here = peft_tool.generate(CHAT, "The harbour", adapter=self.scratch / "tuned", max_new_tokens=12, ignore_eos=True)
        from transformers import PreTrainedTokenizerFast

        ids = PreTrainedTokenizerFast(tokenizer_file=str(CHAT / "tokenizer.json"))("The harbour", return_tensors="pt").input_ids
        with torch.no_grad():
            there = tuned.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12, do_sample=False,
                eos_token_id=None, pad_token_id=0)
        self.assertEqual(here["tokens"], there[0, ids.shape[1]:].tolist())


if __name__ == "__main__":
    unittest.main()
