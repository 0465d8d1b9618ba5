"""Makes Fixtures/models: tiny models of every architecture that runs, with what transformers and PEFT compute with them.

Usage: python make_model_fixtures.py [OUTPUT]   (default: ../models beside this file)

Each directory has a base, tree.txt as PyTorch prints it, names.txt with the named modules, and expected.safetensors: tokens,
logits in f32, and 64 greedy tokens. adapters.safetensors holds the logits of each adapter in merge/, methods/ and variants/
whose base can run, computed by PEFT while the adapter is apart. Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys
import warnings

import torch
import transformers as T
from peft import PeftModel
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).parent.parent
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "models")
SIZES = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128)
TOKENS = torch.tensor([[3, 17, 8, 29, 1, 5, 36, 11, 2, 20, 7, 33]])
TYPES = {"llama", "mistral", "qwen2", "qwen3", "gpt2", "opt", "gemma"}


def rope(**settings):
    return dict(rope_parameters=dict(rope_theta=10000.0, **settings))


def models():
    llama3 = rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=32)
    return {
        "llama": T.LlamaConfig(**SIZES),
        "llama-tied": T.LlamaConfig(tie_word_embeddings=True, **SIZES),
        "llama-biases": T.LlamaConfig(attention_bias=True, mlp_bias=True, **SIZES),
        "llama-rope-linear": T.LlamaConfig(**SIZES, **rope(rope_type="linear", factor=4.0)),
        "llama-rope-dynamic": T.LlamaConfig(**{**SIZES, "max_position_embeddings": 96}, **rope(rope_type="dynamic", factor=2.0)),
        "llama-rope-llama3": T.LlamaConfig(**SIZES, **llama3),
        "mistral": T.MistralConfig(sliding_window=5, **SIZES),
        "mistral-no-window": T.MistralConfig(sliding_window=None, **SIZES),
        "qwen2": T.Qwen2Config(**SIZES),
        "qwen2-window": T.Qwen2Config(use_sliding_window=True, sliding_window=4, max_window_layers=1, **SIZES),
        "qwen3": T.Qwen3Config(head_dim=8, **SIZES),
        "gemma": T.GemmaConfig(head_dim=8, **SIZES),
        "gpt2": T.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=128),
        "gpt2-by-layer": T.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=128, n_inner=40,
                                      scale_attn_by_inverse_layer_idx=True),
        "opt": opt(word_embed_proj_dim=16),
        "opt-350m": opt(word_embed_proj_dim=8, do_layer_norm_before=False),
    }


def opt(**settings):
    return T.OPTConfig(vocab_size=40, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
                       max_position_embeddings=128, **settings)


def randomise(model):
    for name, parameter in model.named_parameters():
        spread = 0.1 if "norm" in name.lower() or "ln_" in name else 0.4
        parameter.data += torch.randn(parameter.shape) * spread


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits[0].float().contiguous()


def make_model(name, config):
    torch.manual_seed(0)
    root = OUT / name
    root.mkdir(parents=True)
    model = T.AutoModelForCausalLM.from_config(config)
    randomise(model)
    model.save_pretrained(root)
    model = T.AutoModelForCausalLM.from_pretrained(root).eval()
    greedy = model.generate(TOKENS, do_sample=False, max_new_tokens=64, eos_token_id=None, pad_token_id=0)
    assert greedy.shape[1] == TOKENS.shape[1] + 64
    save_file({"tokens": TOKENS[0], "logits": logits(model), "greedy": greedy[0, TOKENS.shape[1]:].contiguous()},
              root / "expected.safetensors")
    (root / "tree.txt").write_text(f"{model}\n")
    (root / "names.txt").write_text("".join(f"{name}\n" for name, _ in model.named_modules()))
    (root / "generation_config.json").unlink(missing_ok=True)


def adapters():
    found = {}
    for group in ("merge", "methods", "variants"):
        for root in sorted((ROOT / group).iterdir()):
            config = json.loads((root / "base" / "config.json").read_text())
            adapter = json.loads((root / "adapter" / "adapter_config.json").read_text())
            if config["model_type"] not in TYPES or adapter["task_type"] not in (None, "CAUSAL_LM"):
                continue
            try:
                torch.manual_seed(0)
                base = T.AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
                merged = root / "merged" / "config.json"
                rows = json.loads(merged.read_text()).get("vocab_size") if merged.exists() else None
                if rows and rows != config["vocab_size"]:
                    base.resize_token_embeddings(rows)
                model = PeftModel.from_pretrained(base, root / "adapter").eval()
                extra = dict(task_ids=torch.tensor([0])) if adapter["peft_type"] in ("MULTITASK_PROMPT_TUNING",) else {}
                with torch.no_grad():
                    values = model(input_ids=TOKENS, **extra).logits[0].float()
                found[f"{group}/{root.name}"] = values[-TOKENS.shape[1]:].contiguous()
            except Exception as error:
                print(f"{group}/{root.name}: {type(error).__name__}: {str(error)[:150]}")
    save_file(found, OUT / "adapters.safetensors")


def main():
    warnings.filterwarnings("ignore")
    shutil.rmtree(OUT, ignore_errors=True)
    for name, config in models().items():
        make_model(name, config)
    adapters()


if __name__ == "__main__":
    main()
