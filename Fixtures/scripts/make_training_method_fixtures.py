"""Runs of transformers' Trainer with each method of PEFT that is trained: `make_training_method_fixtures.py [CASE...]`.

Needs what make_training_fixtures.py needs, and its bases. AdaLoRA's allocator is called after each step of the optimizer, as in PEFT's
own loops; the Trainer does not call it.
"""
import sys

import torch
from peft import (AdaLoraConfig, BOFTConfig, IA3Config, LNTuningConfig, LoHaConfig, LoKrConfig, OFTConfig, PrefixTuningConfig,
                  PromptEncoderConfig, PromptTuningConfig, TrainableTokensConfig, VeraConfig)
from transformers import TrainerCallback

from make_training_fixtures import lora, run

TASK = {"task_type": "CAUSAL_LM"}
ATTENTION = ["q_proj", "v_proj"]


def adalora(**more):
    return AdaLoraConfig(**{"init_r": 4, "target_r": 2, "tinit": 3, "tfinal": 5, "deltaT": 2, "total_step": 20, "lora_alpha": 8,
                            "target_modules": ["q_proj", "down_proj"], **TASK, **more})


CASES = {
    "llama-dora": ("llama", lora(use_dora=True, target_modules=["q_proj", "v_proj", "down_proj"]), {}),
    "llama-dora-dropout": ("llama", lora(use_dora=True, lora_dropout=0.1, target_modules=["q_proj", "o_proj", "up_proj"]), {}),
    "gpt2-dora": ("gpt2", lora(use_dora=True, target_modules=["c_attn", "c_fc"]), {}),
    "gpt2-dora-dropout": ("gpt2", lora(use_dora=True, lora_dropout=0.1, target_modules=["c_attn", "c_proj"], bias="lora_only"), {}),
    "opt-dora": ("opt", lora(use_dora=True, target_modules=["v_proj", "fc1"]), {"weight_decay": 0.1}),
    "llama-head-saved": ("llama", lora(modules_to_save=["lm_head"]), {}),
    "qwen3-head-saved": ("qwen3", lora(modules_to_save=["lm_head", "q_norm", "norm"], lora_dropout=0.1), {"weight_decay": 0.1}),
    "qwen3-linear-saved": ("qwen3", lora(target_modules=["q_proj"], modules_to_save=["mlp"]), {}),
    "opt-norms-saved": ("opt", lora(modules_to_save=["self_attn_layer_norm", "final_layer_norm"]), {"weight_decay": 0.1}),
    "gemma-norms-saved": ("gemma", lora(modules_to_save=["input_layernorm", "norm"]), {}),
    "gpt2-linear-saved": ("gpt2", lora(target_modules=["c_attn"], modules_to_save=["c_fc", "ln_f"]), {}),
    "llama-embedding-saved": ("llama", lora(modules_to_save=["embed_tokens"]), {}),
    "opt-embedding-saved": ("opt", lora(modules_to_save=["embed_tokens", "lm_head"]), {}),
    "opt-bias-all": ("opt", lora(bias="all"), {"weight_decay": 0.1}),
    "gpt2-bias-all": ("gpt2", lora(bias="all", target_modules=["c_attn"], lora_dropout=0.1), {}),
    "gpt2-bias-lora": ("gpt2", lora(bias="lora_only", target_modules=["c_attn", "c_fc"]), {}),
    "llama-norms": ("llama", LNTuningConfig(**TASK), {"weight_decay": 0.1}),
    "opt-norms": ("opt", LNTuningConfig(target_modules=["self_attn_layer_norm", "final_layer_norm"], **TASK), {"weight_decay": 0.1}),
    "qwen3-norms": ("qwen3", LNTuningConfig(target_modules=["q_norm", "k_norm", "input_layernorm"], **TASK), {}),
    "gemma-norms": ("gemma", LNTuningConfig(target_modules=["post_attention_layernorm", "norm"], **TASK), {}),
    "gpt2-norms": ("gpt2", LNTuningConfig(target_modules=["ln_1", "ln_f"], **TASK), {"weight_decay": 0.5, "learning_rate": 3e-2}),
    "llama-tokens": ("llama", lora(trainable_token_indices=[5, 40, 41, 90]), {}),
    "qwen3-tokens": ("qwen3", lora(trainable_token_indices=[5, 40, 41, 90], lora_dropout=0.1), {}),
    "gemma-tokens-alone": ("gemma", TrainableTokensConfig(token_indices=[5, 40, 41, 90], **TASK), {}),
    "opt-tokens": ("opt", lora(trainable_token_indices={"embed_tokens": [41, 5]}), {}),
    "llama-embedding": ("llama", lora(target_modules=["embed_tokens", "q_proj"]), {}),
    "gemma-embedding": ("gemma", lora(target_modules=["embed_tokens"]), {}),
    "opt-embedding": ("opt", lora(target_modules=["embed_tokens", "fc1"], lora_dropout=0.1), {}),
    "qwen3-head": ("qwen3", lora(target_modules=["lm_head", "q_proj"], lora_dropout=0.1), {}),
    "qwen3-head-dry": ("qwen3", lora(target_modules=["lm_head", "q_proj"]), {}),
    "llama-ia3": ("llama", IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **TASK), {}),
    "gpt2-ia3": ("gpt2", IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], **TASK), {}),
    "opt-ia3": ("opt", IA3Config(target_modules=["q_proj", "fc2"], feedforward_modules=["fc2"], **TASK), {"weight_decay": 0.1}),
    "llama-prompt": ("llama", PromptTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "gpt2-prompt": ("gpt2", PromptTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "llama-prefix": ("llama", PrefixTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "gpt2-prefix": ("gpt2", PrefixTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "llama-adalora": ("llama", adalora(), {}),
    "llama-adalora-dropout": ("llama", adalora(lora_dropout=0.1), {"gradient_accumulation_steps": 2}),
    "gpt2-adalora": ("gpt2", adalora(target_modules=["c_attn", "c_proj"]), {}),
    "llama-loha": ("llama", LoHaConfig(r=3, alpha=6, target_modules=["q_proj", "v_proj", "up_proj"], **TASK), {}),
    "llama-lokr": ("llama", LoKrConfig(r=2, alpha=4, target_modules=["q_proj", "v_proj", "up_proj"], **TASK), {}),
    "llama-lokr-both": ("llama", LoKrConfig(r=2, alpha=4, decompose_both=True, decompose_factor=4,
                                            target_modules=["q_proj", "down_proj"], **TASK), {}),
    "llama-vera": ("llama", VeraConfig(r=6, target_modules=["q_proj", "v_proj", "down_proj"], **TASK), {}),
    "llama-vera-dropout": ("llama", VeraConfig(r=6, vera_dropout=0.1, target_modules=["q_proj", "v_proj"], **TASK), {}),
    "llama-oft": ("llama", OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj", "down_proj"], **TASK), {}),
    "llama-oft-exact": ("llama", OFTConfig(r=0, oft_block_size=8, use_cayley_neumann=False, target_modules=["q_proj", "v_proj"],
                                           **TASK), {}),
    "opt-oft": ("opt", OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj", "fc2"], **TASK), {}),
    "llama-boft": ("llama", BOFTConfig(boft_block_size=4, target_modules=["q_proj", "down_proj"], **TASK), {}),
    "opt-boft": ("opt", BOFTConfig(boft_block_size=0, boft_block_num=4, bias="boft_only", target_modules=["v_proj", "fc2"], **TASK), {}),
    "opt-oft-shared": ("opt", OFTConfig(r=0, oft_block_size=8, block_share=True, bias="oft_only", num_cayley_neumann_terms=3,
                                        target_modules=["q_proj", "fc2"], **TASK), {}),
    "opt-prompt": ("opt", PromptTuningConfig(num_virtual_tokens=2, token_dim=16, **TASK), {}),
    "qwen3-prefix": ("qwen3", PrefixTuningConfig(num_virtual_tokens=3, **TASK), {}),
    "opt-adalora": ("opt", adalora(target_modules=["q_proj", "fc1"], bias="lora_only", modules_to_save=["lm_head"]),
                    {"weight_decay": 0.1, "max_grad_norm": 0.2}),
    "gpt2-vera": ("gpt2", VeraConfig(r=6, target_modules=["c_attn"], bias="vera_only", **TASK), {}),
    "gpt2-all": ("gpt2", lora(use_dora=True, use_rslora=True, target_modules=["c_attn", "c_proj"], modules_to_save=["ln_f"],
                              trainable_token_indices={"wte": [7, 9]}, lora_dropout=0.1), {"gradient_accumulation_steps": 2}),
    "gemma-embedding-dora": ("gemma", lora(use_dora=True, target_modules=["embed_tokens", "q_proj"]), {}),
    "opt-embedding-dora": ("opt", lora(use_dora=True, target_modules=["embed_tokens"]), {"weight_decay": 0.1}),
    "qwen3-head-dora": ("qwen3", lora(use_dora=True, target_modules=["lm_head"], lora_dropout=0.1), {}),
    "llama-loha-patterns": ("llama", LoHaConfig(r=3, alpha=6, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.mlp.up_proj": 5},
                                                target_modules=["q_proj", "up_proj"], **TASK), {}),
    "qwen3-tokens-apart": ("qwen3", lora(trainable_token_indices={"lm_head": [7, 8], "embed_tokens": [9]}), {}),
    "llama-tokens-dora": ("llama", lora(trainable_token_indices=[5, 90], use_dora=True, lora_dropout=0.1,
                                        modules_to_save=["input_layernorm"]), {"gradient_accumulation_steps": 2}),
    "llama-p-tuning": ("llama", PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=10, **TASK), {"weight_decay": 0.1}),
    "opt-p-tuning": ("opt", PromptEncoderConfig(num_virtual_tokens=2, token_dim=16, encoder_hidden_size=12, **TASK), {}),
    "llama-prefix-projection": ("llama", PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=10,
                                                            **TASK), {}),
    "gpt2-prefix-projection": ("gpt2", PrefixTuningConfig(num_virtual_tokens=2, prefix_projection=True, **TASK), {"weight_decay": 0.1}),
    "llama-loha-dropout": ("llama", LoHaConfig(r=3, alpha=6, rank_dropout=0.3, module_dropout=0.2,
                                               target_modules=["q_proj", "v_proj", "up_proj"], **TASK), {}),
    "llama-loha-grouped": ("llama", LoHaConfig(r=3, alpha=6, target_modules=["q_proj", "up_proj"], **TASK),
                           {"train_sampling_strategy": "group_by_length"}),
    "llama-lokr-dropout": ("llama", LoKrConfig(r=2, alpha=4, rank_dropout=0.3, module_dropout=0.2,
                                               target_modules=["q_proj", "v_proj", "up_proj"], **TASK), {}),
    "llama-lokr-dropout-scaled": ("llama", LoKrConfig(r=2, alpha=4, rank_dropout=0.5, rank_dropout_scale=True,
                                                      target_modules=["q_proj", "down_proj"], **TASK), {"gradient_accumulation_steps": 2}),
    "llama-boft-dropout": ("llama", BOFTConfig(boft_block_size=4, boft_dropout=0.4, target_modules=["q_proj", "down_proj"], **TASK), {}),
    "llama-oft-dropout": ("llama", OFTConfig(r=0, oft_block_size=8, module_dropout=0.5, target_modules=["q_proj", "down_proj"], **TASK), {}),
    "llama-coft": ("llama", OFTConfig(r=0, oft_block_size=8, coft=True, eps=0.2, target_modules=["q_proj", "down_proj"], **TASK), {}),
    "llama-coft-shared": ("llama", OFTConfig(r=0, oft_block_size=8, coft=True, eps=0.3, block_share=True, use_cayley_neumann=False,
                                             target_modules=["q_proj", "v_proj"], **TASK), {}),
}


class Allocator(TrainerCallback):
    """Calls AdaLoRA's allocator where PEFT's own loops do: after the step, before the gradients go."""

    def on_optimizer_step(self, args, state, control, model=None, **_):
        model.base_model.update_and_allocate(state.global_step)


def prepare(model):
    """Moves every trained value a little, so that none starts at zero or one."""
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


if __name__ == "__main__":
    for case, (base, config, options) in CASES.items():
        if not sys.argv[1:] or case in sys.argv[1:]:
            # Encoders are in no adapter: they must be what the seed draws.
            encoded = config.peft_type == "P_TUNING" or getattr(config, "prefix_projection", False)
            run(case, base, config, options, (lambda model: None) if encoded else prepare,
                [Allocator()] if config.peft_type == "ADALORA" else [])
