"""Makes Fixtures/workbench/combine-saved: LoRAs that hold more than factors, to be combined, and what PEFT makes of each.

Usage: python make_combination_fixtures.py [OUTPUT]   (default: ../workbench/combine-saved beside this file)

one, two and three are LoRAs of one small model. Their targets are picked by a pattern, by names in some layers, and by all-linear with an
exclusion; one and two train biases (bias="all"), rows of the embedding (of which they share one, alike in both) and a head that is alike
in both. expected.safetensors holds, in f64, "delta/<module>": the weighted sum of the changes by PEFT's get_delta_weight;
"bias/<tensor>": the weighted sum of the biases of the models that PEFT merges; "row/<token>": the trained rows. The weights are 1.5, -0.5
and 2; biases and rows are those of one and two alone.
Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys

import peft
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

assert peft.__version__ == "0.21.2", peft.__version__

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "workbench" / "combine-saved")
WEIGHTS = {"one": 1.5, "two": -0.5, "three": 2.0}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.layers = nn.ModuleList([Block(), Block(), Block()])
        self.head = nn.Linear(6, 4)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer.down(torch.relu(layer.up(x)))
        return self.head(x)


CONFIGS = {
    "one": dict(r=3, lora_alpha=4, target_modules=r"layers\.[01]\.(up|down)", bias="all", modules_to_save=["head"],
                trainable_token_indices={"embed": [1, 4, 7]}, rank_pattern={r".*0\.up": 2}),
    "two": dict(r=2, lora_alpha=6, use_rslora=True, target_modules=["up", "down"], layers_to_transform=[1, 2], layers_pattern="layers",
                bias="all", modules_to_save=["head"], trainable_token_indices={"embed": [7, 2]}),
    "three": dict(r=4, lora_alpha=1, target_modules="all-linear", exclude_modules=["head", "layers.1.down"], alpha_pattern={"up": 3}),
}


def made(name, seed):
    torch.manual_seed(0)
    base = Model()
    model = get_peft_model(base, LoraConfig(**CONFIGS[name]))
    torch.manual_seed(seed)
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "modules_to_save" in path:
            parameter.data.fill_(0.25).add_(torch.arange(parameter.numel()).reshape(parameter.shape) / 64)
        else:
            parameter.data.add_(torch.randn(parameter.shape) * 0.3)
        if "trainable_tokens_delta" in path:
            # The token that both train.
            parameter.data[CONFIGS[name]["trainable_token_indices"]["embed"].index(7)] = torch.arange(6) / 8
    return model


def save(model, path):
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    (path / "README.md").unlink()
    config = path / "adapter_config.json"
    values = json.loads(config.read_text())
    for key in ("target_modules", "exclude_modules"):
        if isinstance(values.get(key), list):
            values[key] = sorted(values[key])
    config.write_text(json.dumps(values, indent=2, sort_keys=True))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    expected = {}
    for seed, (name, weight) in enumerate(WEIGHTS.items(), 1):
        model = made(name, seed)
        save(model, OUT / name)
        for path, module in model.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight") and "default" in getattr(module, "scaling", {}):
                delta = module.double().get_delta_weight("default").detach()
                expected[f"delta/{path}"] = expected.get(f"delta/{path}", 0) + weight * delta
        if name == "three":
            continue
        merged = model.float().merge_and_unload()
        for path, value in merged.state_dict().items():
            if path.endswith(".bias") and not path.startswith("head"):
                expected[f"bias/{path}"] = expected.get(f"bias/{path}", 0) + weight * value.double()
        for token in CONFIGS[name]["trainable_token_indices"]["embed"]:
            expected[f"row/{token}"] = merged.embed.weight[token].detach().double()
    save_file({name: value.contiguous() for name, value in expected.items()}, OUT / "expected.safetensors")


if __name__ == "__main__":
    main()
