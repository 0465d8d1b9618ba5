"""Times transformers at what `peft-bench generate` times: prints one JSON line of tokens a second and the peak resident memory.

Usage: python bench_generate.py MODEL bf16|f32 TOKENS PREFILL

Needs the versions in requirements.txt.
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    path, kind, tokens, prefill = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if kind == "bf16" else torch.float32).eval()
    prompt = torch.arange(10, 18).unsqueeze(0)
    many = torch.arange(10, 10 + prefill).unsqueeze(0)
    with torch.no_grad():
        model(many, logits_to_keep=1)
        start = time.perf_counter()
        model(many, logits_to_keep=1)
        read = prefill / (time.perf_counter() - start)
        options = dict(do_sample=False, eos_token_id=None, pad_token_id=0)
        model.generate(prompt, max_new_tokens=4, **options)
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=tokens, **options)
        made = tokens / (time.perf_counter() - start)
    peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps({"made": made, "read": read, "peak": peak}))


if __name__ == "__main__":
    main()
