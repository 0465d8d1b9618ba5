"""Runs of transformers' Trainer over models that drop while they are trained: `make_base_dropout_fixtures.py [CASE...]`.

Needs what make_training_fixtures.py needs. The models have the dropout that transformers gives them by default, or more, and the attention
that it chooses itself (sdpa); a case whose name ends in "eager" is the same run with the other, and must give the same figures.
"""
import json, shutil, sys

from peft import PrefixTuningConfig, PromptTuningConfig
from transformers import GPT2Config, LlamaConfig, MistralConfig, OPTConfig

from make_training_fixtures import BASES, ROOT, lora, run

TASK = {"task_type": "CAUSAL_LM"}
SMALL = {"vocab_size": 96, "max_position_embeddings": 32}
LLAMA = {**SMALL, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
OPT = {**SMALL, "hidden_size": 16, "attention_dropout": 0.1, "ffn_dim": 24, "num_attention_heads": 2, "word_embed_proj_dim": 16}

BASES.update({
    "gpt2-drops": GPT2Config(vocab_size=96, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0),
    "opt-drops": OPTConfig(**OPT, num_hidden_layers=2),
    "opt-drops-all": OPTConfig(**{**OPT, "word_embed_proj_dim": 8, "dropout": 0.2, "layerdrop": 0.3}, num_hidden_layers=4,
                               do_layer_norm_before=False),
    "llama-drops": LlamaConfig(**LLAMA, attention_dropout=0.1, tie_word_embeddings=True),
    "mistral-drops": MistralConfig(**LLAMA, attention_dropout=0.2, sliding_window=4, tie_word_embeddings=True),
})

GPT2 = {"target_modules": ["c_attn", "c_proj"]}
CASES = {
    "gpt2-drops-lora": ("gpt2-drops", lora(**GPT2, lora_dropout=0.05), {}),
    "gpt2-drops-lora-eager": ("gpt2-drops", lora(**GPT2, lora_dropout=0.05), {}),
    "gpt2-drops-accumulated": ("gpt2-drops", lora(**GPT2), {"gradient_accumulation_steps": 2, "num_train_epochs": 10}),
    "gpt2-drops-embedding": ("gpt2-drops", lora(target_modules=["wte", "c_fc"]), {}),
    "gpt2-drops-upper": ("gpt2-drops", lora(target_modules=["c_attn"], layers_to_transform=[1], layers_pattern="h"), {}),
    "gpt2-drops-prompt": ("gpt2-drops", PromptTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "gpt2-drops-prefix": ("gpt2-drops", PrefixTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "opt-drops-lora": ("opt-drops", lora(), {}),
    "opt-drops-left": ("opt-drops", lora(lora_dropout=0.1), {}),
    "opt-drops-prompt-left": ("opt-drops", PromptTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "opt-drops-prefix-left": ("opt-drops", PrefixTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "opt-drops-all-lora": ("opt-drops-all", lora(target_modules=["q_proj", "fc1", "fc2"], bias="lora_only"), {}),
    "opt-drops-all-accumulated": ("opt-drops-all", lora(target_modules=["k_proj", "out_proj"], lora_dropout=0.1),
                                  {"gradient_accumulation_steps": 2, "num_train_epochs": 10, "weight_decay": 0.1,
                                   "seed": 10}),  # with 7 and 8 a batch goes through no layer, and torch fails
    "opt-drops-all-prefix": ("opt-drops-all", PrefixTuningConfig(num_virtual_tokens=2, **TASK), {"seed": 10}),
    "llama-drops-lora": ("llama-drops", lora(target_modules="all-linear"), {}),
    "llama-drops-prefix": ("llama-drops", PrefixTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "mistral-drops-lora": ("mistral-drops", lora(), {}),
}

if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        base, config, options = CASES[case]
        run(case, base, config, options, attention="eager" if case.endswith("eager") else None,
            side="left" if case.endswith("left") else "right")
    if "gpt2-drops-lora-eager" in (sys.argv[1:] or CASES):
        logs = [json.loads((ROOT / name / "run.json").read_text())["log"] for name in ("gpt2-drops-lora", "gpt2-drops-lora-eager")]
        assert all(abs(a["loss"] - b["loss"]) < 1e-5 for a, b in zip(*logs)), "eager and sdpa differ"
        shutil.rmtree(ROOT / "gpt2-drops-lora-eager")
