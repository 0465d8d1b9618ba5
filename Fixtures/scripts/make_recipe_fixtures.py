"""Makes Fixtures/recipes: models that mergekit makes out of tiny ones by recipes.

Usage: python make_recipe_fixtures.py [OUTPUT]   (default: ../recipes beside this file)

models/ holds the inputs; each case is recipes/NAME.yml with the result of mergekit in results/NAME.safetensors. Recipes name their
models by paths from the directory that holds models/. Needs the versions in requirements.txt, and mergekit 0.1.5 with immutables.
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import sys

import torch
import transformers
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

assert importlib.metadata.version("mergekit") == "0.1.5"
assert transformers.__version__ == "5.23.0", transformers.__version__

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "recipes").resolve()
LM = transformers.AutoModelForCausalLM


def llama(seed, layers=3, tied=False, dtype=torch.float32, near=None, scale=0.1):
    """A tiny model; near another one, as fine-tuned models are."""
    torch.manual_seed(seed)
    model = LM.from_config(transformers.LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=10, max_position_embeddings=16, tie_word_embeddings=tied))
    others = dict(near.named_parameters()) if near is not None else {}
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape)
        parameter.data.copy_(others[name].data.float() + scale * drawn if others else 0.5 * drawn)
    return model.to(dtype)


def save(model, name, **options):
    model.save_pretrained(OUT / "models" / name, **options)
    (OUT / "models" / name / "generation_config.json").unlink(missing_ok=True)


def make_models():
    base = llama(0)
    one, two, three = (llama(seed, near=base) for seed in (1, 2, 3))
    for name, model in (("base", base), ("one", one), ("two", two), ("three", three)):
        save(model, name)
    for name, model in (("base16", base), ("one16", one), ("two16", two)):
        save(model.to(torch.bfloat16), name)
    save(llama(2, near=base, dtype=torch.float16), "two-half")
    save(llama(4, tied=True), "tied")
    save(llama(5, layers=5), "deep", max_shard_size="4KB")
    torch.manual_seed(6)
    gpt = LM.from_config(transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=10, n_positions=8))
    for name in ("gpt-one", "gpt-two"):
        for parameter in gpt.parameters():
            parameter.data.copy_(0.5 * torch.randn(parameter.shape))
        save(gpt, name)
    torch.manual_seed(7)
    tuned = get_peft_model(LM.from_pretrained(OUT / "models" / "base"), LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape))
    tuned.peft_config["default"].base_model_name_or_path = "fixtures/recipes"
    tuned.peft_config["default"].target_modules = ["q_proj", "down_proj"]
    tuned.save_pretrained(OUT / "models" / "adapter")
    (OUT / "models" / "adapter" / "README.md").unlink()


def models(*names, **parameters):
    """Models with the n-th of each parameter's values."""
    listed = []
    for index, name in enumerate(names):
        own = {key: values[index] for key, values in parameters.items() if values[index] is not None}
        listed.append({"model": f"models/{name}", **({"parameters": own} if own else {})})
    return listed


def changes(method, names=("one", "two"), base="base", dtype="float32", **settings):
    per_model = {key: value for key, value in settings.items() if isinstance(value, tuple)}
    shared = {key: value for key, value in settings.items() if not isinstance(value, tuple)}
    per_model.setdefault("weight", (0.7, 0.4, -0.2)[:len(names)])
    return {
        "merge_method": method, "base_model": f"models/{base}", "models": models(*names, **per_model),
        "parameters": {key.replace("lambda_", "lambda"): value for key, value in shared.items()},
        **({"dtype": dtype} if dtype else {}),
    }


def sliced(method, *slices, **rest):
    return {
        "merge_method": method, "dtype": "float32", **rest,
        "slices": [{"sources": [{"model": f"models/{name}", "layer_range": list(layers)} for name, layers in sources]}
                   for sources in slices],
    }


GRADIENT = [{"filter": "self_attn", "value": [0, 0.5, 0.3]}, {"filter": "mlp", "value": [1, 0.25]}, {"value": 0.5}]

CASES = {
    "linear": {"merge_method": "linear", "models": models("one", "two", weight=(0.7, 0.5)), "dtype": "float32"},
    "linear-not-normalized": {
        "merge_method": "linear", "models": models("one", "two", weight=(0.7, "4e-1")),
        "parameters": {"normalize": False}, "dtype": "float32"},
    "linear-gradient": {
        "merge_method": "linear", "models": models("one", "two", weight=([0, 1], GRADIENT)),
        "parameters": {"normalize": "no"}, "dtype": "float32"},
    "linear-halves": {"merge_method": "linear", "models": models("one16", "two16", weight=(1, 1))},
    "linear-mixed": {"merge_method": "linear", "models": models("one16", "two-half", weight=(1, 2))},
    "linear-out-dtype": {
        "merge_method": "linear", "models": models("one", "two", weight=(1, 3)), "out_dtype": "bfloat16"},
    "linear-adapter": {
        "merge_method": "linear", "models": models("base+models/adapter", "two", weight=(1, 1)), "dtype": "float32"},
    "linear-tied": {"merge_method": "linear", "models": models("tied", "one", weight=(1, 1)), "dtype": "float32"},
    "linear-both-tied": {"merge_method": "linear", "models": models("tied", "tied+", weight=(1, 1))},
    "linear-gpt": {
        "merge_method": "linear", "models": models("gpt-one", "gpt-two", weight=([1, 0], [0, 1])), "dtype": "float32"},
    "modules": {
        "merge_method": "linear", "dtype": "float32", "parameters": {"weight": 5},
        "modules": {"default": {"models": models("one", "two", weight=(None, 3)), "parameters": {"weight": 2}}}},
    "slerp": {
        "merge_method": "slerp", "base_model": "models/one", "models": models("one", "three"), "dtype": "float32",
        "parameters": {"t": GRADIENT}},
    "slerp-base-added": {
        "merge_method": "slerp", "base_model": "models/one", "models": models("deep-cut"), "dtype": "float32",
        "parameters": {"t": 0.3}},
    "slerp-slices": sliced(
        "slerp", [("one", (0, 2)), ("deep", (1, 3))], [("one", (1, 2)), ("deep", (4, 5))], base_model="models/one",
        parameters={"t": [0.1, 0.8]}),
    "nuslerp": {"merge_method": "nuslerp", "models": models("one", "deep-cut", weight=(1, 3)), "dtype": "float32"},
    "nuslerp-base": changes("nuslerp"),
    "nuslerp-rows": changes("nuslerp", nuslerp_flatten=False),
    "nuslerp-columns": changes("nuslerp", nuslerp_flatten=False, nuslerp_row_wise=True),
    "nuslerp-zero": changes("nuslerp", weight=(1, -1)),
    "task-arithmetic": changes("task_arithmetic", names=("one", "two", "three"), lambda_=0.8),
    "task-arithmetic-normalized": changes("task_arithmetic", normalize=True),
    "task-arithmetic-base-listed": changes("task_arithmetic", names=("one", "base", "two"), weight=(0.5, None, 0.25)),
    "ties": changes("ties", names=("one", "two", "three"), density=(0.5, 0.31, 0.8), lambda_=1.2, int8_mask=True),
    "ties-plain": changes("ties", density=(1, 1), normalize=False),
    "ties-gradient": changes("ties", density=([0.2, 0.9], 0.01), weight=(GRADIENT, 0.5)),
    "ties-rescaled": changes("ties", density=(0.4, 0.6), rescale=True),
    "ties-out-dtype": {**changes("ties", density=(0.5, 0.5)), "out_dtype": "float16"},
    "ties-adapter": changes("ties", names=("base+models/adapter", "two"), density=(0.5, 0.7)),
    "dare-linear": changes("dare_linear", density=(0.5, 0.7)),
    "dare-ties": changes("dare_ties", density=(0.53, 1.0)),
    "dare-ties-not-rescaled": changes("dare_ties", density=(0.53, 0.2), rescale=False, normalize=True),
    "dare-linear-halves": changes("dare_linear", names=("one16", "two16"), base="base16", density=(0.53, 0.3), dtype=None),
    "della": changes("della", density=(0.5, 0.6), epsilon=(0.2, 0.1)),
    "della-linear": changes("della_linear", density=(0.5, 1.0), lambda_=1.1),
    "breadcrumbs": changes("breadcrumbs", density=(0.7, 0.9), gamma=(0.05, 0.3)),
    "breadcrumbs-ties": changes("breadcrumbs_ties", density=(0.5, 0.995), weight=(0.7, -0.4)),
    "model-stock": {
        "merge_method": "model_stock", "base_model": "models/base", "models": models("one", "two", "three"),
        "dtype": "float32"},
    "model-stock-rows": {
        "merge_method": "model_stock", "base_model": "models/base", "models": models("one", "two"), "dtype": "float32",
        "parameters": {"filter_wise": True}},
    "passthrough": sliced("passthrough", [("one", (0, 2))], [("deep", (1, 4))], [("two", (2, 3))]),
    "passthrough-repeated": sliced("passthrough", [("one", (0, 3))], [("one", (1, 3))]),
    "passthrough-scaled": {
        "merge_method": "passthrough", "dtype": "float32", "models": models("one", scale=([
            {"filter": "o_proj", "value": 0}, {"filter": "down_proj", "value": [0.5, 2]}],))},
    "passthrough-gpt": sliced("passthrough", [("gpt-one", (0, 2))], [("gpt-two", (1, 2))]),
}


def run(name, recipe):
    """The result of mergekit, as one file."""
    text = yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=110)
    (OUT / "recipes").mkdir(exist_ok=True)
    (OUT / "recipes" / f"{name}.yml").write_text(text)
    target = OUT / "work"
    shutil.rmtree(target, ignore_errors=True)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(target), MergeOptions(
        lora_merge_cache=str(OUT / "cache"), copy_tokenizer=False, write_model_card=False, random_seed=42, quiet=True))
    tensors = {}
    for path in sorted(target.glob("*.safetensors")):
        tensors.update(load_file(path))
    (OUT / "results").mkdir(exist_ok=True)
    layers = json.loads((target / "config.json").read_text())
    save_file(tensors, OUT / "results" / f"{name}.safetensors", metadata={
        "format": "pt", "layers": str(layers.get("num_hidden_layers", layers.get("n_layer")))})
    shutil.rmtree(target)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    os.chdir(OUT)
    make_models()
    # A model of three layers that is not near the others, under the name that recipes use for it.
    save(llama(8), "deep-cut")
    for name, recipe in CASES.items():
        if name == "linear-both-tied":
            save(llama(9, tied=True), "tied-two")
            recipe = {"merge_method": "linear", "models": models("tied", "tied-two", weight=(1, 1)), "dtype": "float32"}
        run(name, recipe)
        print(name)
    shutil.rmtree(OUT / "cache", ignore_errors=True)


main()
