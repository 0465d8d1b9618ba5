"""Trains an adapter with peft-tool and computes logits with it in PEFT: `make_road_fixtures.py PEFT_TOOL`, with requirements.txt.

Writes Fixtures/training/road: configuration, records, options, and the logits after a prompt. Says how far the merged model's logits,
computed by transformers, are from those of the adapter.
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT, BASE = ROOT / "training" / "road", ROOT / "running" / "chat"
OPTIONS = ["--max-steps", "30", "--learning-rate", "0.02", "--lr-scheduler-type", "cosine", "--seed", "3"]
RECORDS = [{"prompt": "Hello", "completion": " world"}, {"prompt": "The quick", "completion": " fox"},
           {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}]


def tool(*words):
    subprocess.run([sys.argv[1], *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def last_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1]


shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
config = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, use_dora=True, task_type="CAUSAL_LM",
                    target_modules=["q_proj", "v_proj", "down_proj"])
written = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
written["base_model_name_or_path"] = "fixtures/chat"
(OUT / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True, default=str))
(OUT / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in RECORDS))
with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    tool("train", BASE, OUT / "config.json", OUT / "data.jsonl", scratch / "adapter", *OPTIONS)
    tool("merge", BASE, scratch / "adapter", scratch / "merged")
    ids = PreTrainedTokenizerFast(tokenizer_file=str(BASE / "tokenizer.json"))("Hello")["input_ids"]
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), scratch / "adapter")
    logits = last_logits(tuned.eval(), ids)
    merged = last_logits(AutoModelForCausalLM.from_pretrained(scratch / "merged", dtype=torch.float32).eval(), ids)
print("greatest logit", float(logits.abs().max()), "merged differs by", float((logits - merged).abs().max()))
vendor = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("vendor_id")), "")
(OUT / "road.json").write_text(json.dumps(
    {"options": OPTIONS, "tokens": ids, "logits": logits.tolist(), "processor": vendor}) + "\n")
