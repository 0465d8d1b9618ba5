"""More of transformers' Trainer, to be repeated: `make_run_fixtures.py`, after make_training_fixtures.py and in its environment.

For each case what make_training_fixtures.py keeps of a run. For `events` also trainer_state.json of each checkpoint as it was written, and
which checkpoints the rotation left: evaluation draws from the generator, so that the losses after it depend on it.
"""
import json, os, pathlib, re, shutil, tempfile

import torch
from peft import get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from make_training_fixtures import ROOT, FirstGradients, Pad, lora, records

CASES = {
    "neftune": ("gemma", lora(target_modules=["q_proj", "down_proj"], lora_dropout=0.1), {"neftune_noise_alpha": 5.0}),
    "neftune-opt": ("opt", lora(), {"neftune_noise_alpha": 3.0, "num_train_epochs": 2}),
    "grouped": ("llama", lora(lora_dropout=0.1), {"train_sampling_strategy": "group_by_length", "num_train_epochs": 2,
                                                  "gradient_accumulation_steps": 2, "repeats": 3}),
    "loraplus": ("llama", lora(target_modules=["q_proj", "up_proj"], lora_bias=True), {"loraplus_lr_ratio": 16.0, "lr_scheduler_type": "cosine"}),
    "left": ("llama", lora(lora_dropout=0.1), {"num_train_epochs": 3, "padding_side": "left"}),
    "events": ("llama", lora(lora_dropout=0.1), {"logging_steps": 3, "logging_first_step": True, "eval_strategy": "steps", "eval_steps": 4,
                                                 "save_strategy": "steps", "save_steps": 4, "save_total_limit": 2, "eval_delay": 3,
                                                 "load_best_model_at_end": True, "per_device_eval_batch_size": 3, "learning_rate": 0.05}),
    "events-epochs": ("llama", lora(lora_dropout=0.1), {"logging_strategy": "epoch", "eval_strategy": "epoch", "save_strategy": "best",
                                                        "metric_for_best_model": "loss", "num_train_epochs": 4, "per_device_eval_batch_size": 4}),
}
OWN = ("repeats", "loraplus_lr_ratio", "padding_side")


class States(TrainerCallback):
    """What each checkpoint's trainer_state.json held when it was written."""

    def __init__(self, out, scratch):
        self.out, self.scratch = out, scratch

    def on_save(self, args, state, control, **_):
        path = pathlib.Path(self.scratch, f"checkpoint-{state.global_step}", "trainer_state.json")
        (self.out / f"trainer_state-{state.global_step}.json").write_text(path.read_text().replace(self.scratch, "OUT"))


def run(name):
    base, config, options = CASES[name]
    out = ROOT / name
    shutil.rmtree(out, ignore_errors=True)
    bases = ROOT / "bases" / base
    model = AutoModelForCausalLM.from_pretrained(bases, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(11)
    model = get_peft_model(model, config)
    model.save_pretrained(out / "before")
    watch = FirstGradients()
    extra = {}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = dict(output_dir=scratch, per_device_train_batch_size=2, num_train_epochs=5, learning_rate=1e-2, logging_steps=1,
                         save_strategy="no", report_to="none", seed=7, use_cpu=True, disable_tqdm=True)
        arguments.update(options)
        own = {k: arguments.pop(k) for k in OWN if k in arguments}
        collator = Pad(own.get("padding_side", "right"))
        optimizer = None
        if "loraplus_lr_ratio" in own:
            optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=arguments["learning_rate"], fused=True,
                                                  loraplus_lr_ratio=own["loraplus_lr_ratio"])
        trainer = Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=records() * own.get("repeats", 1),
                          eval_dataset=records()[:5] if "eval_strategy" in arguments else None, optimizers=(optimizer, None),
                          data_collator=lambda f: collator.pad(f), callbacks=[watch, States(out, scratch)])
        trainer.train()
        history = json.loads(json.dumps(trainer.state.log_history))
        if arguments["save_strategy"] != "no":
            extra = {"left": sorted((d for d in os.listdir(scratch) if d.startswith("checkpoint")), key=lambda d: int(d.split("-")[1])),
                     "best": trainer.state.best_model_checkpoint and pathlib.Path(trainer.state.best_model_checkpoint).name}
    log = [e for e in history if "loss" in e]
    model.save_pretrained(out / "after")
    for part in ("before", "after"):
        (out / part / "README.md").unlink(missing_ok=True)
        path = out / part / "adapter_config.json"
        path.write_text(re.sub(r'("base_model_name_or_path": )"[^"]*"', rf'\1"../../bases/{base}"', path.read_text()))
    save_file({k: v.contiguous() for k, v in watch.found.items()}, out / "gradients.safetensors")
    vendor = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("vendor_id")), "")
    kept = {k: v for k, v in {**arguments, **own}.items() if k not in ("output_dir", "report_to", "use_cpu", "disable_tqdm", "repeats", "padding_side")}
    (out / "run.json").write_text(json.dumps(
        {"base": base, "arguments": kept, "repeats": own.get("repeats", 1), "padding_side": own.get("padding_side", "right"),
         "log": log, "history": history, **extra, "processor": vendor, "torch": torch.__version__}, indent=1) + "\n")
    print(name, [round(e["loss"], 4) for e in log][:6], len(log), extra)


if __name__ == "__main__":
    for case in CASES:
        run(case)
