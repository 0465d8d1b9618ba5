"""Makes Fixtures/init: fresh LoRA adapters as PEFT draws them after torch.manual_seed, on the bases of Fixtures/merge.

Usage: python make_init_fixtures.py [OUTPUT]   (default: ../init beside this file)

Each case is a directory with the adapter and case.json: the base and the seed. All tensors but DoRA's magnitudes must be
met to the bit. Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model

assert peft.__version__ == "0.21.2", peft.__version__

HERE = pathlib.Path(__file__).parent.parent
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "init")
LM = transformers.AutoModelForCausalLM
SEQ = transformers.AutoModelForSequenceClassification
IMAGE = transformers.AutoModelForImageClassification
S2S = transformers.AutoModelForSeq2SeqLM
TASK = dict(task_type="CAUSAL_LM")


def case(name, base, kind, seed, **settings):
    root = OUT / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    model = kind.from_pretrained(HERE / "merge" / base / "base", dtype="auto")
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(**settings))
    tuned.peft_config["default"].base_model_name_or_path = "fixtures/" + base
    tuned.save_pretrained(root)
    (root / "README.md").unlink()
    file = root / "adapter_config.json"
    config = json.loads(file.read_text())
    for key in ("target_modules", "exclude_modules"):  # sets have no order: fix one
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    file.write_text(json.dumps(config, indent=2, sort_keys=True))
    (root / "case.json").write_text(json.dumps({"base": f"merge/{base}/base", "seed": seed}) + "\n")


def main():
    qv = ["q_proj", "v_proj"]
    every = ["down_proj", "k_proj", "gate_proj", "v_proj", "up_proj", "o_proj", "q_proj"]
    case("linear", "llama-f32-qv", LM, 7, r=4, target_modules=qv, **TASK)
    case("linear-other-order", "llama-f32-qv", LM, 7, r=4, target_modules=["v_proj", "q_proj"], **TASK)
    case("every-linear", "qwen2-bf16", LM, 0, r=3, target_modules=every, **TASK)
    case("all-linear", "gemma-tied", LM, 1, r=2, target_modules="all-linear", **TASK)
    case("rslora-half", "llama-f16-rslora", LM, 2**40 + 5, r=4, lora_alpha=6, use_rslora=True, target_modules=qv, **TASK)
    case("double", "llama-f64", LM, 3, r=4, target_modules=qv, **TASK)
    case("gaussian", "llama-f32-qv", LM, 11, r=5, init_lora_weights="gaussian", target_modules=qv, **TASK)
    case("gaussian-bf16", "qwen2-bf16", LM, 11, r=3, init_lora_weights="Gaussian", target_modules=qv, **TASK)
    case("not-zero", "llama-f32-qv", LM, 7, r=4, init_lora_weights=False, target_modules=qv, **TASK)
    case("not-zero-bf16", "qwen2-bf16", LM, 7, r=4, init_lora_weights=False, target_modules=qv, **TASK)
    case("patterns", "llama-patterns", LM, 5, r=4, target_modules="all-linear",
         rank_pattern={"q_proj": 2, "layers.1.mlp.*_proj": 6}, **TASK)
    case("layers", "llama-layers", LM, 6, r=4, target_modules=["q_proj", "down_proj"], layers_to_transform=[1, 3],
         layers_pattern="layers", **TASK)
    case("bias-of-b", "llama-lora-bias", LM, 8, r=4, lora_bias=True, target_modules=qv, **TASK)
    case("bias-of-b-not-zero", "llama-lora-bias", LM, 8, r=4, lora_bias=True, init_lora_weights=False,
         target_modules=qv, **TASK)
    case("conv1d", "gpt2-conv1d", LM, 9, r=4, target_modules=["c_proj", "c_attn", "c_fc"], **TASK)
    case("conv1d-gaussian", "gpt2-conv1d", LM, 9, r=4, init_lora_weights="gaussian", target_modules=["c_attn"], **TASK)
    case("embedding", "llama-f32-qv", LM, 10, r=3, target_modules=["v_proj", "embed_tokens"], **TASK)
    case("embedding-bf16", "qwen2-bf16", LM, 10, r=3, target_modules=["q_proj", "embed_tokens"], **TASK)
    case("embedding-not-zero", "llama-f32-qv", LM, 10, r=3, init_lora_weights=False, target_modules=["embed_tokens"],
         **TASK)
    case("embedding-gaussian", "llama-f32-qv", LM, 10, r=3, init_lora_weights="gaussian",
         target_modules=["embed_tokens", "k_proj"], **TASK)
    case("positions", "gpt2-conv1d", LM, 4, r=2, target_modules=["wpe", "c_attn"], **TASK)
    case("convolution", "resnet-convolution", IMAGE, 12, r=2, target_modules=["convolution"])
    case("convolution-gaussian", "resnet-convolution", IMAGE, 12, r=2, init_lora_weights="gaussian",
         target_modules=["convolution"])
    case("convolution-not-zero", "resnet-convolution", IMAGE, 13, r=2, init_lora_weights=False,
         target_modules=["convolution"], modules_to_save=["classifier"])
    case("dora", "llama-f32-qv", LM, 14, r=4, use_dora=True, target_modules=qv, **TASK)
    case("dora-bf16", "qwen2-bf16", LM, 14, r=4, use_dora=True, target_modules=qv, **TASK)
    case("opt", "opt-350m-layout", LM, 15, r=4, target_modules=["fc2", "q_proj", "v_proj", "project_in", "k_proj"], **TASK)
    case("gpt-neox", "gpt-neox", LM, 16, r=4, target_modules=["dense", "query_key_value", "dense_4h_to_h"], **TASK)
    case("phi3", "phi3-fused", LM, 17, r=4, target_modules=["qkv_proj", "gate_up_proj", "o_proj"], **TASK)
    case("bert-classifier", "bert-sequence-classifier", SEQ, 18, r=4, target_modules=["value", "query", "output.dense"],
         task_type="SEQ_CLS")
    case("t5", "t5", S2S, 19, r=4, target_modules=["v", "q", "wo", "wi"], task_type="SEQ_2_SEQ_LM")
    case("head", "llama-lm-head-untied", LM, 20, r=4, target_modules=["lm_head", "q_proj"], **TASK)
    case("saved-head", "llama-f32-qv", LM, 21, r=4, target_modules=qv, modules_to_save=["lm_head"], **TASK)
    case("trained-biases", "llama-bias-all", LM, 22, r=4, target_modules=qv, bias="all", **TASK)
    case("invocation", "llama-f32-qv", LM, 23, r=4, target_modules=qv, alora_invocation_tokens=[3, 4], **TASK)


if __name__ == "__main__":
    main()
