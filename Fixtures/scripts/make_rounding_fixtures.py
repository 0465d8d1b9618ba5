"""Makes Fixtures/rounding: PEFT's own merges in half precision and f32, as it makes them and with safe_merge=True.

Usage: python make_rounding_fixtures.py [OUTPUT]   (default: ../rounding beside this file)

Each case has base/, adapter/, merged/ and safe/: what `verify --as-peft` must accept. Tiny models, one layer; changes as large
as the weights, which is more than training makes them. Needs the versions in requirements.txt.
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

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "rounding")
LM = transformers.AutoModelForCausalLM
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
TASK = dict(task_type="CAUSAL_LM")


def llama(**extra):
    return transformers.LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                                    num_key_value_heads=2, vocab_size=20, max_position_embeddings=16, **extra)


def gpt2():
    return transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=16)


def case(name, config, settings, *, dtypes=("bf16",), spread=0.3):
    for suffix in dtypes:
        torch.manual_seed(len(name))
        dtype = DTYPES[suffix]
        root = OUT / f"{name}-{suffix}"
        shutil.rmtree(root, ignore_errors=True)
        base, adapter = root / "base", root / "adapter"
        model = LM.from_config(config)
        for parameter in model.parameters():
            parameter.data.copy_(torch.randn(parameter.shape) * 0.5)
        model = model.to(dtype)
        model.tie_weights()
        model.save_pretrained(base)
        try:
            tuned = get_peft_model(LM.from_pretrained(base, dtype=dtype), settings())
            for key, parameter in tuned.named_parameters():
                if parameter.requires_grad:
                    parameter.data += (torch.randn(parameter.shape) * spread).to(parameter.dtype)
            tuned.peft_config["default"].base_model_name_or_path = "fixtures/" + name
            tuned.save_pretrained(adapter)
            path = adapter / "adapter_config.json"
            values = json.loads(path.read_text())
            if isinstance(values.get("target_modules"), list):
                values["target_modules"] = sorted(values["target_modules"])
            path.write_text(json.dumps(values, indent=2, sort_keys=True))
            for safe, place in ((False, "merged"), (True, "safe")):
                fresh = PeftModel.from_pretrained(LM.from_pretrained(base, dtype=dtype), adapter)
                fresh.merge_and_unload(safe_merge=safe).save_pretrained(root / place)
        except Exception as error:  # what PEFT itself cannot do in this dtype is no case
            print(f"{name}-{suffix}: {type(error).__name__}: {str(error)[:90]}")
            shutil.rmtree(root)
            continue
        for path in list(root.glob("*/README.md")) + list(root.glob("*/generation_config.json")):
            path.unlink()


def main():
    every = ("bf16", "f16", "f32")
    targets = ["q_proj", "down_proj"]
    simple = {
        "adalora": (peft.AdaLoraConfig, dict(init_r=4, target_r=2, total_step=10)),
        "boft": (peft.BOFTConfig, dict(boft_block_size=4)),
        "c3a": (peft.C3AConfig, dict(block_size=8)),
        "deft-relu": (peft.DeftConfig, dict(r=3, decomposition_method="relu")),
        "deft-qr": (peft.DeftConfig, dict(r=3, decomposition_method="qr")),
        "delora": (peft.DeloraConfig, dict(r=3)),
        "fourierft": (peft.FourierFTConfig, dict(n_frequency=40)),
        "frod": (peft.FrodConfig, dict(sparse_rate=0.1)),
        "glora": (peft.GloraConfig, dict(r=3)),
        "gralora-hybrid": (peft.GraloraConfig, dict(r=4, gralora_k=2, hybrid_r=2)),
        "hira": (peft.HiraConfig, dict(r=3)),
        "hra": (peft.HRAConfig, dict(r=4)),
        "ia3": (peft.IA3Config, dict(feedforward_modules=["down_proj"])),
        "loha": (peft.LoHaConfig, dict(r=3)),
        "lokr": (peft.LoKrConfig, dict(r=3)),
        "miss": (peft.MissConfig, dict(r=4)),
        "miss-bat": (peft.MissConfig, dict(r=8, init_weights="bat")),
        "oft": (peft.OFTConfig, dict(oft_block_size=8)),
        "osf": (peft.OSFConfig, dict(effective_rank=4)),
        "peanut": (peft.PeanutConfig, dict(r=3)),
        "pvera": (peft.PveraConfig, dict(r=4)),
        "randlora": (peft.RandLoraConfig, dict(r=4)),
        "road-1": (peft.RoadConfig, dict(variant="road_1", group_size=4)),
        "road-4": (peft.RoadConfig, dict(variant="road_4", group_size=4)),
        "shira": (peft.ShiraConfig, dict(r=1)),
        "supertuning": (peft.SupertuningConfig, dict(sparsity=0.9, r=2, lora_alpha=4)),
        "tinylora": (peft.TinyLoraConfig, dict(r=2, u=6)),
        "unilora": (peft.UniLoraConfig, dict(r=2, theta_d_length=64)),
        "vblora": (peft.VBLoRAConfig, dict(r=2, vector_length=8, num_vectors=12)),
        "vera": (peft.VeraConfig, dict(r=4)),
        "waveft": (peft.WaveFTConfig, dict(n_frequency=40)),
    }
    for name, (kind, settings) in simple.items():
        where = ["q_proj", "v_proj"] if name == "miss-bat" else targets
        dtypes = ("bf16", "f16") if name in ("c3a", "frod", "ia3", "osf", "road-1", "unilora") else ("bf16",)
        case(name, llama(), lambda: kind(target_modules=where, **settings, **TASK), dtypes=dtypes)

    def lora(name, config=None, *, dtypes=every, spread=0.3, **settings):
        case(name, config or llama(), lambda: LoraConfig(r=4, **{"target_modules": targets, **settings}, **TASK),
             dtypes=dtypes, spread=spread)

    lora("lora")
    lora("lora-large", spread=3.0)
    lora("lora-embedding", target_modules=["embed_tokens", "q_proj"], dtypes=("bf16", "f16"))
    lora("lora-gpt2", gpt2(), target_modules=["c_attn"], dtypes=("bf16",))
    lora("dora", use_dora=True)
    lora("dora-gpt2", gpt2(), target_modules=["c_attn"], use_dora=True, dtypes=("bf16",))
    lora("lora-bias", llama(attention_bias=True), target_modules=["q_proj"], lora_bias=True, dtypes=("bf16",))
    lora("pissa", init_lora_weights="pissa")
    lora("olora", init_lora_weights="olora")
    lora("kasa", kasa_config=peft.KasaConfig())
    lora("saved-norm", modules_to_save=["norm"], dtypes=("bf16",))
    biased = llama(attention_bias=True)
    case("beft", biased, lambda: peft.BeftConfig(target_modules=["q_proj"], **TASK))
    case("ia3-bias", biased, lambda: peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[], **TASK))
    case("road-bias", biased, lambda: peft.RoadConfig(target_modules=["q_proj"], group_size=8, **TASK))
    case("glora-bias", biased, lambda: peft.GloraConfig(target_modules=["q_proj"], r=3, **TASK))
    case("osf", llama(), lambda: peft.OSFConfig(target_modules=targets, effective_rank=4, **TASK), dtypes=("f32",))
    case("frod", llama(), lambda: peft.FrodConfig(target_modules=targets, sparse_rate=0.1, **TASK), dtypes=("f32",))


if __name__ == "__main__":
    main()
