"""Makes Fixtures/workbench: adapters to be combined, resized and turned into LoRAs, and what PEFT makes of them.

Usage: python make_workbench_fixtures.py [OUTPUT]   (default: ../workbench beside this file)

combine/one and combine/two are LoRAs of one small model with linear layers, a Conv1D, a convolution and an embedding; their ranks,
targets, patterns and scales differ. expected.safetensors holds, in f64, the change of each weight by PEFT's get_delta_weight with the
weights 1 and -0.5. three, which has lora_bias, and four are combined so too; expected-bias.safetensors has the change of each bias.
resize/ranks.json holds, for resize/adapter, the ranks of each module by the rules of sd-scripts' networks/resize_lora.py (index_sv_ratio,
index_sv_cumulative, index_sv_fro and rank_resize; state of January 2026), applied to numpy's singular values of the dense change, and
those values.
convert/ranks.json holds the ranks that PEFT's convert_to_lora gives the modules of convert/adapter for some shares of energy.
peft/expected.safetensors holds what add_weighted_adapter makes of peft/one and peft/two on peft/base, for its eleven types, with the
weights 1 and -0.5, a density of 0.6, svd_rank=3, and torch.manual_seed(3) before the call: "<type>/<tensor>".
Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys

import numpy
import peft
import torch
import transformers
from peft import LoHaConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

assert peft.__version__ == "0.21.2", peft.__version__

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "workbench")
WEIGHTS = (1.0, -0.5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(12, 20)
        self.down = nn.Linear(20, 12, bias=False)
        self.mix = Conv1D(18, 12)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(15, 12)
        self.conv = nn.Conv2d(3, 8, 3)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(12, 4)

    def forward(self, ids):
        return self.head(self.embed(ids))


def tuned(config, seed):
    torch.manual_seed(seed)
    model = get_peft_model(Model(), config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "modules_to_save" not in name:
            parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
    return model


def save(model, path, **arguments):
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path, **arguments)
    (path / "README.md").unlink()
    config = path / "adapter_config.json"
    values = json.loads(config.read_text())
    if isinstance(values.get("target_modules"), list):
        values["target_modules"] = sorted(values["target_modules"])
    config.write_text(json.dumps(values, indent=2, sort_keys=True))


def deltas(model):
    found = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight") and "default" in getattr(module, "scaling", {}):
            module.double()
            found[name] = module.get_delta_weight("default").detach().double()
            if isinstance(getattr(module, "lora_bias", {}).get("default"), bool) and module.lora_bias["default"]:
                found[name + ".bias"] = module.lora_B["default"].bias.detach().double() * module.scaling["default"]
    return found


def combine():
    configs = {
        "one": LoraConfig(r=4, lora_alpha=6, target_modules=["up", "down", "mix", "conv", "embed"],
                          rank_pattern={"conv": 2, "layers.1.up": 3}, alpha_pattern={"layers.0.down": 1}),
        "two": LoraConfig(r=3, lora_alpha=5, use_rslora=True, modules_to_save=["head"],
                          target_modules=["up", "mix", "conv", "embed"], rank_pattern={"mix": 5}),
    }
    # PEFT has no lora_bias for embeddings.
    biased = {
        "three": LoraConfig(r=2, lora_alpha=3, lora_bias=True, target_modules=["up", "conv"]),
        "four": LoraConfig(r=2, lora_alpha=8, target_modules=["up", "mix"]),
    }
    for place, part in (("expected", configs), ("expected-bias", biased)):
        expected = {}
        for index, ((name, config), weight) in enumerate(zip(part.items(), WEIGHTS)):
            model = tuned(config, index)
            save(model, OUT / "combine" / name)
            for path, value in deltas(model).items():
                expected[path] = expected.get(path, 0) + weight * value
        save_file({name: value.contiguous() for name, value in expected.items()}, OUT / "combine" / f"{place}.safetensors")


def kohya_rank(values, method, parameter, limit):
    sums = numpy.cumsum(values) / values.sum()
    squares = numpy.cumsum(values**2) / (values**2).sum()
    if values[0] <= 1e-6:
        return 1
    if method == "sv_ratio":
        index = int((values > values[0] / parameter).sum())
    elif method == "sv_cumulative":
        index = int(numpy.searchsorted(sums, parameter)) + 1
    else:
        index = int(numpy.searchsorted(squares, parameter**2)) + 1
    index = max(1, min(index, len(values) - 1))
    return min(index + 1, limit)


def resize():
    config = LoraConfig(r=6, lora_alpha=9, target_modules=["up", "down", "conv"], rank_pattern={"down": 5})
    model = tuned(config, 7)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.data *= torch.tensor([3.0, 2, 1, 0.5, 0.2, 0.1])[: len(parameter)].reshape(-1, *[1] * (parameter.dim() - 1))
    save(model, OUT / "resize" / "adapter")
    answer = {}
    for path, delta in deltas(model).items():
        dense = delta.flatten(1).numpy()
        values = numpy.linalg.svd(dense / model.base_model.model.get_submodule(path).scaling["default"], compute_uv=False)
        answer[path] = {"values": values.tolist()}
        for method, parameter in (("sv_ratio", 4.0), ("sv_ratio", 40.0), ("sv_cumulative", 0.7), ("sv_fro", 0.9)):
            answer[path][f"{method} {parameter}"] = kohya_rank(values, method, parameter, 5)
    (OUT / "resize" / "ranks.json").write_text(json.dumps(answer, indent=1, sort_keys=True))


def convert():
    model = tuned(LoHaConfig(r=3, alpha=4, target_modules=["up", "down"]), 11)
    save(model, OUT / "convert" / "adapter")
    answer = {}
    for share in (0.5, 0.9, 0.99):
        config, state = peft.convert_to_lora(model, rank=share)
        answer[str(share)] = {
            name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): value.shape[0]
            for name, value in state.items() if name.endswith("lora_A.weight")}
    (OUT / "convert" / "ranks.json").write_text(json.dumps(answer, indent=1, sort_keys=True))
    save_file({name: value.contiguous() for name, value in deltas(model).items()}, OUT / "convert" / "expected.safetensors")


KINDS = ("cat", "linear", "svd", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd",
         "magnitude_prune", "magnitude_prune_svd")


def peft_types():
    root = OUT / "peft"
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=10,
        max_position_embeddings=16)
    torch.manual_seed(1)
    shutil.rmtree(root, ignore_errors=True)
    transformers.LlamaForCausalLM(config).save_pretrained(root / "base")
    (root / "base" / "generation_config.json").unlink()

    def load():
        return transformers.LlamaForCausalLM.from_pretrained(root / "base")

    for index, name in enumerate(("one", "two")):
        model = get_peft_model(load(), LoraConfig(
            r=4, lora_alpha=6 + index, target_modules=["q_proj", "down_proj", "embed_tokens"] + ["v_proj"] * index,
            task_type="CAUSAL_LM"))
        torch.manual_seed(20 + index)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
        model.peft_config["default"].base_model_name_or_path = "fixtures/workbench"
        save(model, root / name, save_embedding_layers=False)
    expected = {}
    for kind in KINDS:
        model = peft.PeftModel.from_pretrained(load(), root / "one", adapter_name="one")
        model.load_adapter(root / "two", adapter_name="two")
        torch.manual_seed(3)
        model.base_model.add_weighted_adapter(
            ["one", "two"], list(WEIGHTS), "both", combination_type=kind, density=0.6, svd_rank=3)
        for name, value in peft.get_peft_model_state_dict(model, adapter_name="both", save_embedding_layers=False).items():
            expected[f"{kind}/{name}"] = value.contiguous().clone()
    save_file(expected, root / "expected.safetensors")


if __name__ == "__main__":
    for part in ("combine", "resize", "convert"):
        (OUT / part).mkdir(parents=True, exist_ok=True)
    combine()
    resize()
    convert()
    peft_types()
