"""Runs of transformers' Trainer with PEFT, to be repeated: `make_training_fixtures.py`, in a virtual environment with requirements.txt.

For each case: the base, the adapter before and after, what was logged at each step, and the gradients of the first step. Masks of
dropout depend on the processor's vendor, which is recorded: torch takes another road on Intel's.
"""
import json, pathlib, shutil, tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, DataCollatorForSeq2Seq, GPT2Config, LlamaConfig, OPTConfig, Qwen3Config,
                          GemmaConfig, Trainer, TrainerCallback, TrainingArguments)

torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent / "training"

BASES = {
    "llama": LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
                       bos_token_id=0, eos_token_id=0),
    "opt": OPTConfig(vocab_size=96, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=16,
                     max_position_embeddings=64, dropout=0, do_layer_norm_before=False),
    "qwen3": Qwen3Config(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
                         num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False),
    "gemma": GemmaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
                         num_key_value_heads=1, max_position_embeddings=64),
}


def lora(**more):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, "target_modules": ["q_proj", "v_proj"],
                         "task_type": "CAUSAL_LM", **more})


CASES = {
    "llama-lora": ("llama", lora(), {}),
    "llama-lora-dropout": ("llama", lora(lora_dropout=0.1, target_modules="all-linear"),
                           {"gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine", "warmup_steps": 3, "weight_decay": 0.1}),
    "llama-lora-upper": ("llama", lora(target_modules=["gate_proj", "down_proj"], layers_to_transform=[1], use_rslora=True,
                                       rank_pattern={"down_proj": 3}, alpha_pattern={"gate_proj": 5}), {"max_grad_norm": 0.1}),
    "gpt2-lora": ("gpt2", lora(target_modules=["c_attn", "c_fc"], lora_dropout=0.1), {"label_smoothing_factor": 0.1}),
    "opt-lora": ("opt", lora(target_modules=["q_proj", "v_proj", "fc2"], lora_bias=True), {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 2}),
    "qwen3-lora": ("qwen3", lora(target_modules=["k_proj", "o_proj", "up_proj"]), {"lr_scheduler_type": "polynomial"}),
    "gemma-lora": ("gemma", lora(target_modules=["q_proj", "gate_proj"]), {"lr_scheduler_type": "cosine_with_restarts",
                                                                       "lr_scheduler_kwargs": {"num_cycles": 3}}),
}


def records():
    """Seven rows of differing lengths, their beginnings without labels."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for length in [9, 5, 12, 7, 3, 10, 6]:
        ids = torch.randint(3, 96, (length,), generator=generator).tolist()
        hidden = length // 3
        rows.append({"input_ids": ids, "attention_mask": [1] * length, "labels": [-100] * hidden + ids[hidden:]})
    return rows


class Pad:
    """As much of a tokenizer as the collator asks for."""

    padding_side = "right"
    pad_token_id = 1

    def __init__(self, side="right"):
        self.padding_side = side

    def pad(self, features, **_):
        longest = max(len(f["input_ids"]) for f in features)
        out = {}
        for key, value in (("input_ids", 1), ("attention_mask", 0), ("labels", -100)):
            rows = []
            for f in features:
                row, fill = [int(x) for x in f[key]], [value] * (longest - len(f[key]))
                rows.append(row + fill if self.padding_side == "right" else fill + row)
            out[key] = torch.tensor(rows)
        return out


def saved_name(name):
    """A trained parameter's name as PEFT saves it."""
    name = name.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
    return name.replace(".modules_to_save", "")


class FirstGradients(TrainerCallback):
    def __init__(self):
        self.found = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self.found is None:
            found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
                     if p.requires_grad}
            if list(found) == ["prompt_encoder.default.embedding.weight"]:  # saved as it is; an encoder is not saved
                found = {"prompt_embeddings": found.popitem()[1]}
            self.found = {n if n.startswith("prompt_encoder") else saved_name(n): g for n, g in found.items()}


def run(name, base, config, options, prepare=lambda model: None, callbacks=(), attention="eager", side="right"):
    """Makes one case's files. `prepare` may change the fresh adapter, whose untouched values often leave nothing to see."""
    out = ROOT / name
    shutil.rmtree(out, ignore_errors=True)
    bases = ROOT / "bases" / base
    if not bases.exists():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(BASES[base])
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.1) if p.ndim > 1 else p.data.add_(0.1 * torch.randn_like(p))
        model.save_pretrained(bases)
        (bases / "generation_config.json").unlink(missing_ok=True)
    model = AutoModelForCausalLM.from_pretrained(bases, dtype=torch.float32, attn_implementation=attention)
    torch.manual_seed(11)
    model = get_peft_model(model, config)
    prepare(model)
    model.save_pretrained(out / "before")
    watch = FirstGradients()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = dict(output_dir=scratch, per_device_train_batch_size=2, num_train_epochs=5, learning_rate=1e-2, logging_steps=1,
                         save_strategy="no", report_to="none", seed=7, use_cpu=True, disable_tqdm=True)
        arguments.update(options)
        collator = Pad(side)
        trainer = Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=records(),
                          data_collator=lambda f: collator.pad(f), callbacks=[watch, *callbacks])
        trainer.train()
    log = [{k: e[k] for k in ("loss", "grad_norm", "learning_rate", "epoch", "step")} for e in trainer.state.log_history if "loss" in e]
    model.save_pretrained(out / "after")
    for part in ("before", "after"):
        (out / part / "README.md").unlink(missing_ok=True)
        path = out / part / "adapter_config.json"
        path.write_text(path.read_text().replace(json.dumps(str(bases)), json.dumps(f"../../bases/{base}")))
    save_file({k: v.contiguous() for k, v in watch.found.items()}, out / "gradients.safetensors")
    vendor = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("vendor_id")), "")
    (out / "run.json").write_text(json.dumps(
        {"base": base, "arguments": {k: v for k, v in arguments.items() if k in TrainingArguments.__dataclass_fields__ and k not in
                                     ("output_dir", "report_to", "use_cpu", "disable_tqdm", "logging_steps", "save_strategy")},
         "log": log, "adapter_seed": 11, **({"padding_side": side} if side != "right" else {}), "processor": vendor, "torch": torch.__version__}, indent=1) + "\n")
    print(name, [round(e["loss"], 4) for e in log][:6], len(log))


if __name__ == "__main__":
    (ROOT).mkdir(exist_ok=True)
    (ROOT / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records()))
    for case, what in CASES.items():
        run(case, *what)
