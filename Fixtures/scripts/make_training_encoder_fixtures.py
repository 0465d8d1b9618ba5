"""Runs of transformers' Trainer with what stays frozen in MiCA and with p-tuning's LSTM: `make_training_encoder_fixtures.py [CASE...]`.

Needs what make_training_fixtures.py needs, and its bases.
"""
import sys

from peft import PromptEncoderConfig

from make_training_fixtures import lora, run

LSTM = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "encoder_reparameterization_type": "LSTM"}
CASES = {
    "llama-mica": ("llama", lora(init_lora_weights="mica", lora_dropout=0.1, target_modules=["q_proj", "down_proj"]), {}),
    "gpt2-mica": ("gpt2", lora(init_lora_weights="mica", target_modules=["c_attn"]), {"weight_decay": 0.1}),
    "llama-p-tuning-lstm": ("llama", PromptEncoderConfig(encoder_hidden_size=6, encoder_num_layers=1, **LSTM), {}),
    "opt-p-tuning-lstm": ("opt", PromptEncoderConfig(encoder_hidden_size=5, token_dim=16, **LSTM), {"weight_decay": 0.1}),
}

if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        run(case, *CASES[case])
