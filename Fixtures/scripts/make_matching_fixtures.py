"""Makes Fixtures/matching: adapters on layers that PEFT treats in ways of its own, with what the running adapter computes.

Usage: python make_matching_fixtures.py [OUTPUT]   (default: ../matching beside this file)

Each case has base/, adapter/ (adapter-2/ where there are two) and merged/: the weights that give the output of the running
adapter, which are PEFT's own merge wherever that agrees. Cases that must be refused have no merged/. Needs the versions in
requirements.txt.
"""

import copy
import json
import pathlib
import shutil
import sys

import peft as p
import torch
import transformers
from make_merge_fixtures import gpt2, llama
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "matching")
LM = transformers.AutoModelForCausalLM


class Attention(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.attn = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True)

    def forward(self, x):
        x = self.first(x)
        return self.attn(x, x, x)[0]


class Chain(nn.Module):
    """Layers one after the other, under their names."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.names = list(layers)

    def forward(self, x):
        for name in self.names:
            x = torch.tanh(getattr(self, name)(x))
        return x


class Block(nn.Module):
    """A square Conv1D beside one of the same last name, and a Linear."""

    def __init__(self):
        super().__init__()
        self.attn = nn.ModuleDict({"c_proj": Conv1D(8, 8)})
        self.mlp = nn.ModuleDict({"c_fc": Conv1D(12, 8), "c_proj": Conv1D(8, 12)})
        self.head = nn.Linear(8, 6)

    def forward(self, x):
        x = torch.tanh(self.attn["c_proj"](x))
        return self.head(self.mlp["c_proj"](torch.tanh(self.mlp["c_fc"](x))))


class Numbered(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(8, 8)}) for _ in range(11)])

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer["proj"](x))
        return x


def randomised(module, seed, scale):
    torch.manual_seed(seed)
    for key, value in module.named_parameters():
        if value.requires_grad:
            value.data.copy_(torch.rand(value.shape) + 0.5 if "magnitude" in key else torch.randn(value.shape) * scale)
    return module


def output(model, x):
    with torch.no_grad():
        result = model(x)
    return (result.logits if hasattr(result, "logits") else result).float()


def tied_state(model):
    """What embedding and head compute in a running model, as weights; the rest as they are merged."""
    rows = torch.arange(model.get_input_embeddings().weight.shape[0])
    width = model.config.hidden_size
    with torch.no_grad():
        return (model.get_input_embeddings()(rows), model.get_output_embeddings()(torch.eye(width)).T.contiguous())


def case(name, make, configs, x, *, dtype=torch.float32, merges=True, after=None, auto=None, edit=None):
    """`make` makes the model; `auto` is the class that loads a transformers model; `after` edits the saved base."""
    root = OUT / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    configs = configs if isinstance(configs, list) else [configs]
    model = randomised(make(), 0, 0.5).to(dtype)
    if auto:
        model.tie_weights()
        model.save_pretrained(root / "base")
        (root / "base" / "generation_config.json").unlink(missing_ok=True)
    else:
        (root / "base").mkdir()
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(state, root / "base" / "model.safetensors", {"format": "pt"})
    if after:
        after(root / "base" / "model.safetensors")

    def fresh(where="base"):
        if auto:
            return auto.from_pretrained(root / where, dtype=dtype)
        model = make().to(dtype)
        model.load_state_dict(load_file(root / where / "model.safetensors"))
        return model

    adapters = []
    for number, config in enumerate(configs, 1):
        tuned = randomised(get_peft_model(fresh(), copy.deepcopy(config)), number, 0.3)
        adapters.append(root / ("adapter" if number == 1 else f"adapter-{number}"))
        tuned.peft_config["default"].base_model_name_or_path = "fixtures/" + name
        tuned.save_pretrained(adapters[-1])
        (adapters[-1] / "README.md").unlink(missing_ok=True)
        path = adapters[-1] / "adapter_config.json"
        settings = json.loads(path.read_text())
        if isinstance(settings.get("target_modules"), list):
            settings["target_modules"] = sorted(settings["target_modules"])
        if edit:
            edit(settings)
        path.write_text(json.dumps(settings, indent=2, sort_keys=True))
    if not merges:
        return
    base = load_file(root / "base" / "model.safetensors")
    kinds = {config.peft_type for config in configs}
    if len(kinds) > 1:  # PEFT puts one method on a model: the changes are added up
        state = {k: v.clone() for k, v in base.items()}
        for adapter in adapters:
            merged = PeftModel.from_pretrained(fresh(), adapter).merge_and_unload().state_dict()
            state = {k: v + merged[k] - base[k] for k, v in state.items()}
        save(root, state, base)
        return

    def running():
        model = PeftModel.from_pretrained(fresh(), adapters[0])
        for number, adapter in enumerate(adapters[1:], 2):
            model.load_adapter(adapter, f"adapter-{number}")
        if len(adapters) > 1:
            model.base_model.set_adapter(["default"] + [f"adapter-{n}" for n in range(2, len(adapters) + 1)])
        return model.eval()

    wanted = output(running(), x)
    merged = running().merge_and_unload()
    state = {k: v.clone() for k, v in merged.state_dict().items()}
    if auto and not torch.allclose(output(merged.eval(), x), wanted, atol=1e-4):
        state["model.embed_tokens.weight"], state["lm_head.weight"] = tied_state(running().get_base_model())
        state = {k: v for k, v in state.items() if k in base or k == "lm_head.weight"}
    save(root, state, base)
    if auto:
        settings = json.loads((root / "base" / "config.json").read_text())
        if "lm_head.weight" in load_file(root / "merged" / "model.safetensors") and "lm_head.weight" not in base:
            settings["tie_word_embeddings"] = False
        (root / "merged" / "config.json").write_text(json.dumps(settings))
    if dtype == torch.float32:
        assert torch.allclose(output(fresh("merged").eval(), x), wanted, atol=1e-4), name
    (root / "merged" / "config.json").unlink(missing_ok=True)


def save(root, state, base):
    """A head that is still tied is left out, as in the base."""
    embedding, head = state.get("model.embed_tokens.weight"), state.get("lm_head.weight")
    if embedding is not None and head is not None and "lm_head.weight" not in base and torch.allclose(
            embedding, head, atol=1e-5):
        del state["lm_head.weight"]
    (root / "merged").mkdir()
    save_file({k: v.contiguous() for k, v in state.items()}, root / "merged" / "model.safetensors", {"format": "pt"})


def attentions():
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(5))
    lora = dict(r=3, lora_alpha=4, target_modules=["attn"])
    case("attention", Attention, LoraConfig(**lora), x)
    case("attention-bf16", Attention, LoraConfig(**lora), x.bfloat16(), dtype=torch.bfloat16)
    case("attention-patterns", Attention, LoraConfig(
        **{**lora, "target_modules": ["attn", "first"]}, rank_pattern={"attn": 2, "out_proj": 5}, alpha_pattern={"attn": 7},
        use_rslora=True), x)
    case("attention-lora-bias", Attention, LoraConfig(**lora, lora_bias=True), x)
    case("attention-all-biases", Attention, LoraConfig(**lora, bias="all"), x)
    case("attention-without-bias", lambda: Attention(bias=False), LoraConfig(**lora), x)
    case("attention-twice", Attention, [LoraConfig(**lora), LoraConfig(r=2, target_modules=["attn", "first"])], x)
    case("attention-beside-its-projection", Attention, LoraConfig(r=2, target_modules=["attn", "out_proj"]), x)
    case("attention-saved", Attention, LoraConfig(r=2, target_modules=["first"], modules_to_save=["attn"]), x)
    case("attention-parameter", Attention, LoraConfig(
        r=2, target_modules=["first"], target_parameters=["attn.in_proj_weight"]), x)


def conv1d():
    """transformers' Conv1D where no config.json tells the model type."""
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    t = dict(target_modules=["one", "two"])
    methods = {
        "lora": LoraConfig(r=2, **t), "dora": LoraConfig(r=2, use_dora=True, **t),
        "pissa": LoraConfig(r=2, init_lora_weights="pissa", **t),
        "adalora": p.AdaLoraConfig(init_r=3, target_r=2, total_step=10, **t), "deft": p.DeftConfig(r=2, **t),
        "deft-qr": p.DeftConfig(r=2, decomposition_method="qr", **t),
        "fourierft": p.FourierFTConfig(n_frequency=9, **t), "frod": p.FrodConfig(sparse_rate=0.1, **t),
        "gralora": p.GraloraConfig(r=2, gralora_k=2, **t), "hira": p.HiraConfig(r=2, **t),
        "ia3": p.IA3Config(feedforward_modules=["two"], **t), "pvera": p.PveraConfig(r=2, **t),
        "randlora": p.RandLoraConfig(r=2, randlora_alpha=4, **t),
        "unilora": p.UniLoraConfig(r=2, theta_d_length=16, save_indices=True, **t), "vera": p.VeraConfig(r=2, **t),
        "vera-seed": p.VeraConfig(r=2, save_projection=False, **t),
        "vblora": p.VBLoRAConfig(r=2, vector_length=4, num_vectors=6, **t),
        "waveft": p.WaveFTConfig(n_frequency=9, **t),
    }
    for name, config in methods.items():
        case(f"conv1d-{name}", lambda: Chain(one=Conv1D(8, 8), two=Conv1D(12, 8)), config, x)
        case(f"mixed-{name}", lambda: Chain(one=Conv1D(12, 8), two=nn.Linear(12, 8)), config, x)
        if name in ("lora", "ia3", "vera", "waveft"):
            case(f"square-conv1d-{name}", lambda: Chain(one=Conv1D(8, 8), two=Conv1D(8, 8)), config, x)
            case(f"square-linear-{name}", lambda: Chain(one=nn.Linear(8, 8), two=nn.Linear(8, 8)), config, x)
    for name, config in (("lora", LoraConfig(r=2, target_modules=["c_proj", "head"])),
                         ("hira", p.HiraConfig(r=2, target_modules=["c_proj", "head"]))):
        case(f"same-last-name-{name}", Block, config, x)
    both = lambda: Chain(square=Conv1D(8, 8), one=Conv1D(12, 8), two=nn.Linear(12, 8))
    case("both-kinds-one-target", both, p.IA3Config(feedforward_modules=[], target_modules=["square"]), x)
    case("both-kinds-undecided", both, LoraConfig(r=2, target_modules=["square", "one", "two"]), x, merges=False)
    hira = p.HiraConfig(r=2, **t)
    case("square-conv1d-hira", lambda: Chain(one=Conv1D(8, 8), two=Conv1D(8, 8)), hira, x, merges=False)
    case("square-linear-without-bias-hira",
         lambda: Chain(one=nn.Linear(8, 8, bias=False), two=nn.Linear(8, 8, bias=False)), hira, x)


def orders():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    two = lambda: Chain(one=nn.Linear(8, 12), two=nn.Linear(12, 8))
    one, both = dict(target_modules=["two"]), dict(target_modules=["one", "two"])
    for name, target, make in (("one", one, two), ("numbered", dict(target_modules=["proj"]), Numbered)):
        case(f"tinylora-{name}", make, p.TinyLoraConfig(r=2, u=3, save_projection=False, **target), x)
        case(f"unilora-{name}", make, p.UniLoraConfig(r=2, theta_d_length=16, **target), x)
    case("tinylora-one-vector", two, p.TinyLoraConfig(r=2, u=3, weight_tying=1.0, **both), x)
    case("tinylora-unknown-order", two, p.TinyLoraConfig(r=2, u=3, **both), x, merges=False)
    case("unilora-unknown-order", two, p.UniLoraConfig(r=2, theta_d_length=16, **both), x, merges=False)


def convolutions():
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(5))
    make = lambda: Chain(one=nn.Conv2d(4, 8, 3, groups=2), two=nn.Conv2d(8, 4, 1))
    t = dict(target_modules=["one", "two"])
    case("grouped-lora", make, LoraConfig(r=2, **t), x, merges=False)
    case("grouped-adalora", make, p.AdaLoraConfig(init_r=3, target_r=2, total_step=10, **t), x, merges=False)
    case("grouped-oft", make, p.OFTConfig(oft_block_size=4, **t), x, merges=False)
    case("grouped-ia3", make, p.IA3Config(feedforward_modules=["one"], **t), x)
    case("grouped-loha", make, p.LoHaConfig(r=2, **t), x)
    volume = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    case("convolution-3d", lambda: Chain(one=nn.Conv3d(3, 4, 3)), LoraConfig(r=2, target_modules=["one"]), volume)
    tokens = torch.arange(6).reshape(2, 3)
    for init in ("pissa", "olora"):
        case(f"embedding-{init}", lambda: Chain(one=nn.Embedding(12, 8), two=nn.Linear(8, 6)), LoraConfig(
            r=2, lora_alpha=3, init_lora_weights=init, target_modules=["one", "two"]), tokens)


def ties():
    """Rows of a tied embedding and head, with the head absent from the checkpoint, there and equal, or there and another."""
    def head(change):
        def edit(path):
            tensors = load_file(path)
            torch.manual_seed(9)
            tensors["lm_head.weight"] = change(tensors["model.embed_tokens.weight"])
            save_file(tensors, path, {"format": "pt"})
        return edit

    small = dict(num_hidden_layers=1, vocab_size=12, hidden_size=8, intermediate_size=8, num_attention_heads=2,
                 num_key_value_heads=1)
    bases = {
        "tied": (True, None), "equal-head": (True, head(torch.clone)),
        "other-head": (True, head(lambda weight: torch.randn(weight.shape) * 0.5)), "untied": (False, None),
    }
    lora = dict(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"])
    rows = lambda *targets, **indices: LoraConfig(
        **{**lora, "target_modules": ["q_proj", *targets]}, trainable_token_indices=indices)
    cases = {
        "list": LoraConfig(**lora, trainable_token_indices=[3, 7]),
        "embedding": rows(embed_tokens=[3, 7]), "head": rows(lm_head=[3, 7]),
        "both": rows(embed_tokens=[3, 7], lm_head=[3, 7]), "both-other-rows": rows(embed_tokens=[3, 7], lm_head=[7, 1]),
        "head-beside-lora": rows("embed_tokens", lm_head=[3, 7]),
        "embedding-beside-lora": rows("lm_head", embed_tokens=[7, 3]),
        "only-embedding": p.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[3, 7],
                                                  task_type="CAUSAL_LM"),
        "only-head": p.TrainableTokensConfig(target_modules=["lm_head"], token_indices=[3, 7], task_type="CAUSAL_LM"),
        "lora-on-head": LoraConfig(**{**lora, "target_modules": ["lm_head"]}),
        "lora-tied-on-purpose": LoraConfig(**{**lora, "target_modules": ["embed_tokens"]}, ensure_weight_tying=True),
    }
    x = torch.tensor([[1, 3, 7, 2]])
    for base, (tied, after) in bases.items():
        for name, config in cases.items():
            if base == "other-head" and name == "embedding-beside-lora":
                continue  # PEFT refuses to make it
            config.base_model_name_or_path = None
            make = lambda: LM.from_config(llama(**small, tie_word_embeddings=tied))
            case(f"{base}-{name}", make, config, x, after=after, auto=LM)


def encoder_decoder():
    """Rows of an embedding that encoder and decoder share: with other rows on the head, they keep the old embedding."""
    config = transformers.T5Config(d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, vocab_size=12)
    lora = LoraConfig(r=2, target_modules=["q"], task_type="SEQ_2_SEQ_LM",
                      trainable_token_indices={"shared": [3, 7], "lm_head": [1, 2]})
    case("encoder-decoder-other-rows", lambda: transformers.T5ForConditionalGeneration(config), lora, None, merges=False,
         auto=transformers.AutoModelForSeq2SeqLM)


def sums():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    make = lambda: Chain(one=nn.Linear(8, 12), two=Conv1D(8, 12))
    t = dict(target_modules=["one"])
    both = dict(target_modules=["one", "two"])
    case("sum-lora-and-loha", make, [LoraConfig(r=2, **both), p.LoHaConfig(r=2, **t)], x)
    case("sum-vera-and-lora", make, [p.VeraConfig(r=2, **both), LoraConfig(r=2, **both)], x)
    case("sum-two-lora-biases", make, [LoraConfig(r=2, lora_bias=True, **t), LoraConfig(r=3, lora_bias=True, **both)], x)
    case("sum-two-befts", make, [p.BeftConfig(**t), p.BeftConfig(**t)], x)
    case("sum-beft-and-lora-bias", make, [p.BeftConfig(**t), LoraConfig(r=2, lora_bias=True, **t)], x)
    case("sum-loha-and-ia3", make, [p.LoHaConfig(r=2, **t), p.IA3Config(feedforward_modules=[], **t)], x, merges=False)
    case("sum-dora-and-loha", make, [LoraConfig(r=2, use_dora=True, **t), p.LoHaConfig(r=2, **t)], x, merges=False)
    case("sum-ia3-and-beft", make, [p.IA3Config(feedforward_modules=[], **t), p.BeftConfig(**t)], x, merges=False)


if __name__ == "__main__":
    attentions()
    conv1d()
    orders()
    convolutions()
    ties()
    encoder_decoder()
    sums()
