"""Makes Fixtures/unmerge: LoRA adapters on embeddings and heads of tied models, and what PEFT merges of them.

Usage: python make_unmerge_fixtures.py [OUTPUT]   (default: ../unmerge beside this file)

Each case has base/, adapter/ and merged/. `two` has a second adapter for the base of `head`. Needs the versions in
requirements.txt.
"""

import json
import pathlib
import shutil
import sys

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

assert peft.__version__ == "0.21.2", peft.__version__
assert transformers.__version__ == "5.23.0", transformers.__version__

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "unmerge")
LM = transformers.AutoModelForCausalLM


def config(tied):
    return transformers.LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                                    num_key_value_heads=2, vocab_size=20, max_position_embeddings=16,
                                    tie_word_embeddings=tied)


def case(name, tied, targets, dtype, seed=0, **settings):
    root = OUT / name
    shutil.rmtree(root, ignore_errors=True)
    base, adapter = root / "base", root / "adapter"
    torch.manual_seed(0)
    model = LM.from_config(config(tied))
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape) * 0.5)
    model = model.to(dtype)
    model.tie_weights()
    model.save_pretrained(base)
    torch.manual_seed(seed)
    tuned = get_peft_model(LM.from_pretrained(base, dtype=dtype), LoraConfig(
        r=2, lora_alpha=4, target_modules=targets, task_type="CAUSAL_LM", **settings))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(torch.randn(parameter.shape))
    tuned.peft_config["default"].base_model_name_or_path = "fixtures/" + name
    tuned.save_pretrained(adapter)
    path = adapter / "adapter_config.json"
    values = json.loads(path.read_text())
    values["target_modules"] = sorted(values["target_modules"])
    path.write_text(json.dumps(values, indent=2, sort_keys=True))
    fresh = PeftModel.from_pretrained(LM.from_pretrained(base, dtype=dtype), adapter)
    fresh.merge_and_unload().save_pretrained(root / "merged")
    for path in list(root.glob("*/README.md")) + list(root.glob("*/generation_config.json")):
        path.unlink()


def main():
    bf16, f32 = torch.bfloat16, torch.float32
    case("head", False, ["lm_head", "embed_tokens", "q_proj"], bf16)
    case("two", False, ["lm_head", "embed_tokens"], bf16, seed=1)
    case("tied-embedding", True, ["embed_tokens", "q_proj"], bf16)
    case("tied-embedding-f32", True, ["embed_tokens", "q_proj"], f32)
    case("tied-head", True, ["lm_head", "q_proj"], bf16)
    case("tied-head-f32", True, ["lm_head", "q_proj"], f32)
    case("tied-both", True, ["lm_head", "embed_tokens"], bf16)
    case("tied-on-purpose", True, ["lm_head", "embed_tokens"], bf16, ensure_weight_tying=True)


if __name__ == "__main__":
    main()
