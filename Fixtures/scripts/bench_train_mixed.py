"""Times PEFT with transformers' Trainer at what `peft-bench train --records mixed` times.

Usage: python bench_train_mixed.py MODEL RECORDS BATCH STEPS

Needs the versions in requirements.txt. RECORDS is the benchmark's file of input_ids and labels, taken in its order. f32, LoRA r=8 on q_proj
and v_proj, dropout 0.05; tokens a second count records' tokens, not padding.
"""

import json
import statistics
import sys
import tempfile
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, DataCollatorForSeq2Seq, PreTrainedTokenizerFast, Trainer, TrainerCallback,
                          TrainingArguments)


class Clock(TrainerCallback):
    def __init__(self):
        self.started, self.seconds = 0, []

    def on_step_begin(self, *_, **__):
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.started)


def main():
    path, records, batch, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5])
    rows = [json.loads(line) for line in open(records)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{path}/tokenizer.json")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=8, lora_dropout=0.05, target_modules=["q_proj", "v_proj"],
                                             task_type="CAUSAL_LM"))
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(output_dir=scratch, per_device_train_batch_size=batch, max_steps=steps + 1, save_strategy="no",
                                      train_sampling_strategy="sequential", report_to="none", use_cpu=True, disable_tqdm=True,
                                      logging_strategy="no")
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer),
                callbacks=[clock]).train()
    counts = [sum(len(r["input_ids"]) for r in rows[batch * step:batch * (step + 1)]) for step in range(steps + 1)]
    rates = [count / seconds for count, seconds in zip(counts, clock.seconds)][1:]
    peak = next(int(line.split()[1]) // 1000 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(f"median {statistics.median(rates):.1f}, best {max(rates):.1f}, all {sum(counts[1:]) / sum(clock.seconds[1:]):.1f} tokens a "
          f"second, peak memory {peak} MB")


if __name__ == "__main__":
    main()
