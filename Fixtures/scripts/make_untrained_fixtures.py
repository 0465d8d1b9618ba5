"""Makes Fixtures/untrained: an adapter of every mergeable method as PEFT starts it, and by how much it changes each weight.

Usage: python make_untrained_fixtures.py [OUTPUT]   (default: ../untrained beside this file)

The base is Fixtures/merge/llama-bias-all/base. changes.json maps each changed parameter to ||W' - W|| / ||W|| of PEFT's
merge_and_unload. Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys

import peft
import torch
import transformers
from peft import PeftModel, get_peft_model

assert peft.__version__ == "0.21.2", peft.__version__

HERE = pathlib.Path(__file__).parent.parent
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "untrained")
BASE = HERE / "merge" / "llama-bias-all" / "base"
LM = transformers.AutoModelForCausalLM


def case(name, kind, **settings):
    root = OUT / name
    shutil.rmtree(root, ignore_errors=True)
    torch.manual_seed(0)
    settings = dict(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM") | settings
    tuned = get_peft_model(LM.from_pretrained(BASE), kind(**settings))
    tuned.peft_config["default"].base_model_name_or_path = "fixtures/" + name
    tuned.save_pretrained(root)
    (root / "README.md").unlink()
    file = root / "adapter_config.json"
    config = json.loads(file.read_text())
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])  # sets have no order: fix one
    file.write_text(json.dumps(config, indent=2, sort_keys=True))
    before = LM.from_pretrained(BASE).state_dict()
    merged = PeftModel.from_pretrained(LM.from_pretrained(BASE), root).merge_and_unload().state_dict()
    changes = {}
    for key, value in merged.items():
        old = before[key].double()
        changes[key] = float((value.double() - old).norm() / old.norm())
    (root / "changes.json").write_text(json.dumps({k: v for k, v in changes.items() if v > 0}, indent=1) + "\n")


def main():
    p = peft
    case("lora", p.LoraConfig, r=2)
    case("dora", p.LoraConfig, r=2, use_dora=True)
    case("embedding", p.LoraConfig, r=2, target_modules=["embed_tokens"])
    case("pissa", p.LoraConfig, r=2, init_lora_weights="pissa")
    case("adalora", p.AdaLoraConfig, init_r=3, target_r=2, total_step=10)
    case("loha", p.LoHaConfig, r=2)
    case("lokr", p.LoKrConfig, r=2)
    case("lokr-both", p.LoKrConfig, r=2, decompose_both=True, decompose_factor=4)
    case("ia3", p.IA3Config, feedforward_modules=["down_proj"])
    case("oft", p.OFTConfig, oft_block_size=8)
    case("oft-cayley", p.OFTConfig, oft_block_size=8, use_cayley_neumann=False)
    case("boft", p.BOFTConfig, boft_block_size=4)
    case("hra", p.HRAConfig, r=4)
    case("vera", p.VeraConfig, r=4)
    case("vera-seed", p.VeraConfig, r=4, save_projection=False)
    case("pvera", p.PveraConfig, r=4)
    case("randlora", p.RandLoraConfig, r=4)
    case("fourierft", p.FourierFTConfig, n_frequency=20)
    case("fourierft-zero", p.FourierFTConfig, n_frequency=20, init_weights=True)
    case("waveft", p.WaveFTConfig, n_frequency=20)
    case("vblora", p.VBLoRAConfig, r=2, vector_length=8, num_vectors=6)
    case("unilora", p.UniLoraConfig, r=2, theta_d_length=32, save_indices=True)
    case("tinylora", p.TinyLoraConfig, r=2, u=4)
    case("miss", p.MissConfig, r=4)
    case("miss-bat", p.MissConfig, r=4, init_weights="bat", target_modules=["q_proj"])
    case("shira", p.ShiraConfig, r=1)
    case("c3a", p.C3AConfig, block_size=8)
    case("c3a-zero", p.C3AConfig, block_size=8, init_weights=True)
    case("road", p.RoadConfig, variant="road_1", group_size=4)
    case("road-2", p.RoadConfig, variant="road_2", group_size=4)
    case("road-4", p.RoadConfig, variant="road_4", group_size=4)
    case("ln-tuning", p.LNTuningConfig, target_modules=["input_layernorm"])
    case("trainable-tokens", p.TrainableTokensConfig, target_modules=["embed_tokens"], token_indices=[3, 0])
    case("delora", p.DeloraConfig, r=2)
    case("gralora", p.GraloraConfig, r=4, gralora_k=2)
    case("glora", p.GloraConfig, r=2)
    case("glora-vector", p.GloraConfig, r=2, config_A_B="vector", config_C="vector", config_D_E="vector")
    case("hira", p.HiraConfig, r=2)
    case("frod", p.FrodConfig, sparse_rate=0.1)
    case("deft", p.DeftConfig, r=2)
    case("deft-relu", p.DeftConfig, r=2, decomposition_method="relu")
    case("osf", p.OSFConfig, effective_rank=4)
    case("peanut", p.PeanutConfig, r=2)
    case("supertuning", p.SupertuningConfig, sparsity=0.9)
    case("supertuning-lora", p.SupertuningConfig, sparsity=0.9, r=2, lora_alpha=4)
    case("beft", p.BeftConfig, target_modules=["q_proj"])


if __name__ == "__main__":
    main()
