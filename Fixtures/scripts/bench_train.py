"""Times PEFT with torch at what `peft-bench train` times.

Usage: python bench_train.py MODEL plain|checkpointed BATCH LENGTH STEPS

Needs the versions in requirements.txt. f32, LoRA r=8 on q_proj and v_proj, dropout 0.05, fused AdamW.
"""

import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def main():
    path, kind, batch, length, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if kind == "checkpointed":
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=8, lora_dropout=0.05, target_modules=["q_proj", "v_proj"],
                                             task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5, fused=True)
    rates = []
    for step in range(steps + 1):
        tokens = torch.randint(0, model.config.vocab_size, (batch, length))
        start = time.perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step:
            rates.append(batch * length / (time.perf_counter() - start))
    peak = next(int(line.split()[1]) // 1000 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(f"median {statistics.median(rates):.1f}, best {max(rates):.1f} tokens a second, peak memory {peak} MB")


if __name__ == "__main__":
    main()
