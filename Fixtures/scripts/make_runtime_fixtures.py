"""Makes Fixtures/runtime: what transformers and PEFT compute where tying, activations, precision or an invocation decide.

Usage: python make_runtime_fixtures.py [OUTPUT]   (default: ../runtime beside this file)

ties/ has one model in each state of head and embedding; activations/ one model whose config.json is given another activation
for each expectation; activations.safetensors the functions alone, in f32 and f64; half/ adapters on a bf16 base, run by PEFT in
f32; alora/ aLoRAs with the logits of a pass. Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys
import warnings

import torch
import transformers as T
from peft import IA3Config, LNTuningConfig, LoraConfig, OFTConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.activations import ACT2CLS, ACT2FN

ROOT = pathlib.Path(__file__).parent.parent
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "runtime")
SIZES = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
             num_key_value_heads=2, max_position_embeddings=64)
TOKENS = torch.tensor([[3, 17, 8, 29, 1, 5, 36, 11, 2, 20, 7, 33]])
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def randomise(model):
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape) * 0.4
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits[0].float().contiguous()


def load(path):
    return T.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def set_config(path, **values):
    config = json.loads((path / "config.json").read_text())
    for key, value in values.items():
        config[key] = value
        if value is None:
            del config[key]
    (path / "config.json").write_text(json.dumps(config, indent=2))


def save(model, path):
    model.save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)


def ties():
    """Head and embedding stored or not, equal or not, and what config.json says."""
    found, counts = {}, {}
    for name, tied, change in (
        ("head-differs", True, lambda e: {HEAD: torch.randn_like(e)}),
        ("head-equal", True, lambda e: {HEAD: e.clone()}),
        ("head-only", True, lambda e: {HEAD: e.clone(), EMBEDDING: None}),
        ("head-in-half", True, lambda e: {HEAD: e.to(torch.bfloat16)}),
        ("head-in-half-equal", True, lambda e: {HEAD: e.to(torch.bfloat16), EMBEDDING: e.to(torch.bfloat16).float()}),
        ("head-equal-untied", False, lambda e: {HEAD: e.clone()}),
        ("gemma-head-differs", None, lambda e: {HEAD: torch.randn_like(e)}),
    ):
        torch.manual_seed(0)
        root = OUT / "ties" / name
        settings = dict(head_dim=8) if tied is None else {}
        kind = T.GemmaConfig if tied is None else T.LlamaConfig
        save(randomise(T.AutoModelForCausalLM.from_config(kind(tie_word_embeddings=tied is not False, **SIZES, **settings))), root)
        if tied is None:
            set_config(root, tie_word_embeddings=None)
        tensors = load_file(root / "model.safetensors")
        changed = change(tensors[EMBEDDING])
        tensors = {k: v for k, v in (tensors | changed).items() if v is not None}
        save_file(tensors, root / "model.safetensors", {"format": "pt"})
        found[name] = logits(load(root))
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        counts[name] = get_peft_model(load(root), config).get_nb_trainable_parameters()
    (OUT / "ties" / "counts.json").write_text(json.dumps(counts, indent=1))
    save_file(found, OUT / "ties" / "expected.safetensors")


def activations():
    grid = torch.cat([torch.linspace(-12, 12, 49, dtype=torch.float64), torch.tensor([-200.0, -90, -30, 1e-4, -1e-7, 30, 90, 200], dtype=torch.float64)])
    functions = {"x": grid}
    for name in ACT2CLS:
        with torch.no_grad():
            functions[f"{name}.f64"] = ACT2FN[name].double()(grid).clone()
            functions[f"{name}.f32"] = ACT2FN[name].float()(grid.float()).float().clone()
    functions["xielu.f64"] = ACT2FN["xielu"](grid).double().detach().contiguous()
    functions["xielu.f32"] = ACT2FN["xielu"](grid.float()).float().detach().contiguous()
    save_file(functions, OUT / "activations.safetensors")
    found, trees = {}, {}
    for kind, config in (("llama", T.LlamaConfig(**SIZES)), ("gemma", T.GemmaConfig(head_dim=8, **SIZES))):
        torch.manual_seed(0)
        root = OUT / "activations" / kind
        save(randomise(T.AutoModelForCausalLM.from_config(config)), root)
        for name in ACT2CLS if kind == "llama" else ("gelu", "gelu_python", "gelu_pytorch_tanh", "silu"):
            if name in ("prelu", "xielu"):
                continue
            set_config(root, hidden_act=name)
            found[f"{kind}.{name}"] = logits(load(root))
            if kind == "llama":
                line = next(line for line in f"{load(root)}".splitlines() if "(act_fn)" in line)
                trees[name] = line.strip().removeprefix("(act_fn): ")
        if kind == "gemma":
            set_config(root, hidden_act=None, hidden_activation="gelu")
            found["gemma.hidden_activation"] = logits(load(root))
    (OUT / "activations" / "trees.json").write_text(json.dumps(trees, indent=1))
    save_file(found, OUT / "activations" / "expected.safetensors")


def tuned(model, config, seed):
    torch.manual_seed(seed)
    model = get_peft_model(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape) * 0.1
    return model


def half():
    """Changes that no merge could keep in bf16."""
    root = OUT / "half"
    torch.manual_seed(0)
    save(randomise(T.AutoModelForCausalLM.from_config(T.LlamaConfig(attention_bias=True, **SIZES))).to(torch.bfloat16), root / "base")
    task = dict(task_type="CAUSAL_LM")
    found = {}
    for seed, (name, config) in enumerate({
        "dora": LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=True, **task),
        "embedding": LoraConfig(r=2, target_modules=["embed_tokens", "v_proj"], **task),
        "bias": LoraConfig(r=2, target_modules=["q_proj"], bias="all", **task),
        "dora-saved-head": LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, modules_to_save=["lm_head"], **task),
        "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **task),
        "norms": LNTuningConfig(target_modules=["input_layernorm", "norm"], **task),
        "oft": OFTConfig(r=0, oft_block_size=4, target_modules=["v_proj"], **task),
        "rows": TrainableTokensConfig(token_indices=[3, 17], target_modules=["embed_tokens"], **task),
    }.items()):
        model = tuned(load(root / "base"), config, seed)
        model.peft_config["default"].base_model_name_or_path = "fixtures/half"
        model.save_pretrained(root / name)
        (root / name / "README.md").unlink(missing_ok=True)
        found[name] = logits(PeftModel.from_pretrained(load(root / "base"), root / name))
    save_file(found, root / "expected.safetensors")


def alora():
    """An aLoRA on the head besides, two sequences in turn, and the model without PEFT around it."""
    root = OUT / "alora"
    base = OUT / "half" / "base"
    config = LoraConfig(r=2, target_modules=["q_proj", "o_proj", "up_proj", "lm_head"], alora_invocation_tokens=[36, 11], task_type="CAUSAL_LM")
    model = tuned(load(base), config, 9)
    model.peft_config["default"].base_model_name_or_path = "fixtures/half"
    model.save_pretrained(root / "adapter", save_embedding_layers=False)
    (root / "adapter" / "README.md").unlink(missing_ok=True)
    model = PeftModel.from_pretrained(load(base), root / "adapter")
    with torch.no_grad():
        other = model(input_ids=TOKENS.flip(1)).logits[0].contiguous()
        alone = model.base_model.model(input_ids=TOKENS).logits[0].contiguous()
    save_file({"pass": logits(model), "reversed": other, "alone": alone}, root / "expected.safetensors")


def main():
    warnings.filterwarnings("ignore")
    shutil.rmtree(OUT, ignore_errors=True)
    ties()
    activations()
    half()
    alora()


if __name__ == "__main__":
    main()
