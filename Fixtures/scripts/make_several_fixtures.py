"""Makes Fixtures/several: PEFT's merges of several adapters at once, as it makes them and with safe_merge=True.

Usage: python make_several_fixtures.py [OUTPUT]   (default: ../several beside this file)

Each case has base/, the adapters one/, two/ and three/, and merged/ and safe/: what `verify --as-peft` must accept. Needs the
versions in requirements.txt.
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

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "several")
LM = transformers.AutoModelForCausalLM
NAMES = ("one", "two", "three")
TASK = dict(task_type="CAUSAL_LM")


def settings(kind, index):
    if kind == "loha":
        return peft.LoHaConfig(r=2 + index, target_modules=["q_proj", "down_proj"], **TASK)
    targets = ["q_proj", "down_proj"] + (["embed_tokens"] if kind == "lora" else [])
    return LoraConfig(r=2 + index, target_modules=targets, lora_bias=kind == "bias", **TASK)


def case(kind, suffix, dtype):
    torch.manual_seed(0)
    root = OUT / f"{kind}-{suffix}"
    shutil.rmtree(root, ignore_errors=True)
    model = LM.from_config(transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=20, max_position_embeddings=16, attention_bias=True, mlp_bias=True))
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape) * 0.5)
    model.to(dtype).save_pretrained(root / "base")

    def load():
        return LM.from_pretrained(root / "base", dtype=dtype)

    for index, name in enumerate(NAMES):
        tuned = get_peft_model(load(), settings(kind, index))
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
        tuned.peft_config["default"].base_model_name_or_path = "fixtures/several"
        tuned.save_pretrained(root / name)
        path = root / name / "adapter_config.json"
        values = json.loads(path.read_text())
        values["target_modules"] = sorted(values["target_modules"])
        path.write_text(json.dumps(values, indent=2, sort_keys=True))
    for safe, place in ((False, "merged"), (True, "safe")):
        several = PeftModel.from_pretrained(load(), root / "one", adapter_name="one")
        for name in NAMES[1:]:
            several.load_adapter(root / name, adapter_name=name)
        merged = several.base_model.merge_and_unload(safe_merge=safe, adapter_names=list(NAMES))
        merged.save_pretrained(root / place)
    for path in list(root.glob("*/README.md")) + list(root.glob("*/generation_config.json")):
        path.unlink()


def main():
    for suffix, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)):
        for kind in ("lora", "bias", "loha"):
            case(kind, suffix, dtype)


if __name__ == "__main__":
    main()
