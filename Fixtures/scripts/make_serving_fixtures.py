"""Makes Fixtures/serving/vllm.json: configurations and names of tensors, and what vLLM's own checks say of them.

Usage: python make_serving_fixtures.py VLLM [OUTPUT]

VLLM is an unpacked wheel of vllm 0.33.0: only lora/peft_helper.py and two functions of lora/utils.py are run, with
stand-ins for what they import. OUTPUT defaults to ../serving/vllm.json beside this file.
"""

import ast
import json
import pathlib
import re
import sys
import types

VLLM = pathlib.Path(sys.argv[1])
OUT = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).parent.parent / "serving" / "vllm.json")
RANKS = [1, 8, 16, 32, 64, 128, 256, 320, 512]


class Log:
    def info_once(self, *_):
        pass


def stand_in(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


for name in ("vllm", "vllm.config"):
    stand_in(name)
stand_in("regex", **{k: getattr(re, k) for k in ("match", "compile", "fullmatch", "search")})
stand_in("vllm.config.lora", LoRAConfig=object)
stand_in("vllm.logger", init_logger=lambda _: Log())
helper = types.ModuleType("peft_helper")
sys.modules["peft_helper"] = helper
exec(compile((VLLM / "vllm/lora/peft_helper.py").read_text(), "peft_helper.py", "exec"), helper.__dict__)
utils = {}
for node in ast.parse((VLLM / "vllm/lora/utils.py").read_text()).body:
    if isinstance(node, ast.FunctionDef) and node.name in ("parse_fine_tuned_lora_name", "is_base_embedding_weights"):
        exec(compile(ast.Module([node], []), "utils.py", "exec"), utils)
config_text = (VLLM / "vllm/config/lora.py").read_text()
assert f"MaxLoRARanks = Literal{RANKS}" in config_text and "max_lora_rank: MaxLoRARanks = 16" in config_text

P = "base_model.model.model.layers.0.self_attn.q_proj"
PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
PAIR = [f"{P}.lora_A.weight", f"{P}.lora_B.weight"]


def judge(config, tensors, rank):
    try:
        found = helper.PEFTHelper.from_dict(config)
        found.validate_legal(types.SimpleNamespace(max_lora_rank=rank))
        for name in tensors:
            if not utils["is_base_embedding_weights"](name):
                utils["parse_fine_tuned_lora_name"](name)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        return str(error)
    return None


def main():
    cases = []

    def case(name, tensors=(), drop=(), names=None, **config):
        config = {k: v for k, v in {**PLAIN, **config}.items() if k not in drop}
        tensors = (PAIR if names is None else names) + list(tensors)
        served = [r for r in RANKS if judge(config, tensors, r) is None]
        cases.append({"name": name, "config": config, "tensors": tensors, "refusal": judge(config, tensors, 16),
                      "leastRank": min(served, default=None)})

    case("plain")
    for rank in (1, 2, 16, 17, 24, 64, 65, 200, 256, 257, 320, 321, 512, 513, 1000):
        case(f"rank-{rank}", r=rank)
    case("rank-pattern", rank_pattern={"q_proj": 40})
    case("rank-pattern-low", rank_pattern={"q_proj": 4})
    case("alpha-pattern", alpha_pattern={"q_proj": 40})
    case("both-patterns", alpha_pattern={"q_proj": 40}, rank_pattern={"v_proj": 2})
    case("rslora", use_rslora=True)
    case("dora", tensors=[f"{P}.lora_magnitude_vector"], use_dora=True)
    case("lora-bias", tensors=[f"{P}.lora_B.bias"], lora_bias=True)
    case("bias-all", tensors=["base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias"], bias="all")
    case("bias-lora-only", bias="lora_only")
    case("saved-head", tensors=["base_model.model.lm_head.weight"], modules_to_save=["lm_head"])
    case("saved-score", tensors=["base_model.model.score.weight"], modules_to_save=["classifier", "score"])
    case("saved-classifier", tensors=["base_model.model.classifier.weight", "base_model.model.classifier.bias"],
         modules_to_save=["classifier", "score"])
    case("saved-roberta", tensors=["base_model.model.classifier.dense.weight"], modules_to_save=["classifier"])
    case("saved-norm", tensors=["base_model.model.model.norm.weight"], modules_to_save=["norm"])
    for init in ("pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "gaussian", "Gaussian", "eva", "orthogonal",
                 "mica", "lora_ga", True, False):
        case(f"init-{init}", init_lora_weights=init)
    case("invocation", alora_invocation_tokens=[1, 2])
    case("invocation-empty", alora_invocation_tokens=[])
    case("layer-replication", layer_replication=[[0, 2], [1, 2]])
    case("block-diagonal", use_bdlora={"nblocks": 2})
    case("quantization-aware", use_qalora=True)
    case("target-pattern", target_modules=".*q_proj")
    case("target-null", target_modules=None)
    for key in ("r", "lora_alpha", "target_modules"):
        case(f"without-{key}", drop=(key,))
    case("default-name", names=[n.replace(".weight", ".default.weight") for n in PAIR])
    case("compiled", names=[n.replace("model.layers", "_orig_mod.model.layers") for n in PAIR])
    case("kasa", tensors=[f"{P}.lora_diag"], kasa_config={})
    case("tokens", tensors=["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"],
         trainable_token_indices=[1])
    case("embedding", tensors=["base_model.model.model.embed_tokens.lora_embedding_A",
                               "base_model.model.model.embed_tokens.lora_embedding_B",
                               "base_model.model.model.embed_tokens.base_layer.weight"],
         target_modules=["q_proj", "embed_tokens"])
    case("experts", tensors=["base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight",
                             "base_model.model.model.layers.0.mlp.experts.base_layer.lora_B.weight"],
         target_parameters=["mlp.experts.gate_up_proj"])
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"vllm": "0.33.0", "cases": cases}, indent=1) + "\n")
    for c in cases:
        print(c["name"], c["leastRank"], (c["refusal"] or "")[:100])


if __name__ == "__main__":
    main()
