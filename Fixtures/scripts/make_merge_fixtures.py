"""Makes Fixtures/merge: tiny bases, LoRA adapters and PEFT's own merged results.

Usage: python make_merge_fixtures.py [OUTPUT]   (default: ../merge beside this file)

Each case is a directory with base/, adapter/ and merged/, and count.txt with PEFT's trainable-parameters line. The
weights are random; only names, shapes, dtypes and numbers matter. Needs the versions in requirements.txt.
"""

import contextlib
import io
import json
import pathlib
import shutil
import sys

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

assert peft.__version__ in ("0.21.2", "0.15.2"), peft.__version__  # the earlier one for make_bone_fixtures.py
assert transformers.__version__ == "5.23.0", transformers.__version__

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "merge")
HERE = pathlib.Path.cwd()

LLAMA = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=40, max_position_embeddings=32)


def llama(**extra):
    return transformers.LlamaConfig(**{**LLAMA, **extra})


def opt_350m_layout():
    return transformers.OPTConfig(hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=40,
                                  max_position_embeddings=32, word_embed_proj_dim=8, do_layer_norm_before=False)


def gpt2():
    return transformers.GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=40, n_positions=32)


def bert():
    return transformers.BertConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                                   vocab_size=40, max_position_embeddings=32, num_labels=3)


def qwen2(**extra):
    return transformers.Qwen2Config(**{**LLAMA, **extra})


def gemma():
    return transformers.GemmaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                                    num_key_value_heads=1, head_dim=4, vocab_size=40, max_position_embeddings=32)


def phi3():
    return transformers.Phi3Config(**LLAMA, pad_token_id=0)


def gpt_neox():
    return transformers.GPTNeoXConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                                      vocab_size=40, max_position_embeddings=32)


def t5():
    return transformers.T5Config(d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, vocab_size=40)


def resnet():
    return transformers.ResNetConfig(num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                                     layer_type="basic", num_labels=3)


def randomise(module, scale):
    for name, parameter in module.named_parameters():
        parameter.data.copy_(torch.randn(parameter.shape) * scale)


def case(name, config, kind, lora, *, dtype=torch.float32, adapter_dtype=None, shard=None, save_as=None, strip=None,
         seed=0, edit_config=None, merges=True, spread=0.3):
    """One case: `kind` is the auto class, `save_as` another class to save the base with, `strip` a prefix to drop.

    `spread` is the standard deviation of the adapter's values; without `merges` there is no merged result.
    """
    torch.manual_seed(seed)
    root = OUT / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    base, adapter, merged = root / "base", root / "adapter", root / "merged"
    model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    randomise(model, 0.5)
    model = model.to(dtype)
    model.tie_weights()
    saved = model if save_as is None else getattr(model, save_as)
    saved.save_pretrained(base, **({"max_shard_size": shard} if shard else {}))
    if strip:
        tensors = load_file(base / "model.safetensors")
        save_file({k.removeprefix(strip): v for k, v in tensors.items()}, base / "model.safetensors", {"format": "pt"})
    model = kind.from_pretrained(base, dtype=dtype)
    if save_as:  # the head is not in the file: keep it for the comparison
        model.load_state_dict({k: v for k, v in model.state_dict().items()})
    tuned = get_peft_model(model, lora)
    with contextlib.redirect_stdout(io.StringIO()) as line:
        tuned.print_trainable_parameters()
    (root / "count.txt").write_text(line.getvalue())
    for key, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            scale = torch.rand(parameter.shape) + 0.5 if "magnitude" in key else torch.randn(parameter.shape) * spread
            parameter.data.copy_(scale)
    tuned.peft_config["default"].base_model_name_or_path = "fixtures/" + name
    tuned.save_pretrained(adapter)
    if adapter_dtype:
        file = adapter / "adapter_model.safetensors"
        save_file({k: v.to(adapter_dtype) for k, v in load_file(file).items()}, file, {"format": "pt"})
    config_file = adapter / "adapter_config.json"
    settings = json.loads(config_file.read_text())
    for key in ("target_modules", "exclude_modules"):  # sets have no order: fix one
        if isinstance(settings.get(key), list):
            settings[key] = sorted(settings[key])
    if edit_config:
        edit_config(settings)
    config_file.write_text(json.dumps(settings, indent=2, sort_keys=True))
    if not merges:
        (adapter / "README.md").unlink()
        return
    fresh = kind.from_pretrained(base, dtype=dtype)
    if getattr(lora, "modules_to_save", None) or save_as:  # what the base lacks starts from the same values
        fresh.load_state_dict({k.replace(".base_layer", ""): v for k, v in tuned.get_base_model().state_dict().items()
                               if "lora_" not in k and "modules_to_save" not in k and "original_module" not in k},
                              strict=False)
    result = PeftModel.from_pretrained(fresh, adapter).merge_and_unload()
    result.save_pretrained(merged)
    for path in list(root.glob("*/README.md")) + list(root.glob("merged/generation_config.json")):
        path.unlink()


def main():
    lm, seq, tok, s2s = (transformers.AutoModelForCausalLM, transformers.AutoModelForSequenceClassification,
                         transformers.AutoModelForTokenClassification, transformers.AutoModelForSeq2SeqLM)
    bf16, f16, f64 = torch.bfloat16, torch.float16, torch.float64
    task = dict(task_type="CAUSAL_LM")
    qv = ["q_proj", "v_proj"]
    case("llama-f32-qv", llama(), lm, LoraConfig(r=4, lora_alpha=8, target_modules=qv, **task))
    case("llama-bf16-all-linear", llama(), lm, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **task),
         dtype=bf16)
    case("llama-f16-rslora", llama(), lm, LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=qv, **task),
         dtype=f16)
    case("llama-f64", llama(), lm, LoraConfig(r=4, target_modules=qv, **task), dtype=f64, adapter_dtype=f64)
    case("llama-bf16-adapter-bf16", llama(), lm, LoraConfig(r=4, target_modules=qv, **task), dtype=bf16,
         adapter_dtype=bf16)
    case("llama-f32-adapter-f16", llama(), lm, LoraConfig(r=4, target_modules=qv, **task), adapter_dtype=f16)
    case("llama-patterns", llama(), lm, LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", rank_pattern={"q_proj": 2, "layers.1.mlp.*_proj": 6},
        alpha_pattern={"layers.0.self_attn.v_proj": 3.5, "up_proj": 32}, **task))
    case("llama-regex-target", llama(), lm, LoraConfig(
        r=4, target_modules=r".*\.layers\.(?:0|[2-9])\.self_attn\.[qk]_proj", **task))
    case("llama-layers", llama(num_hidden_layers=4), lm, LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], layers_to_transform=[1, 3], layers_pattern="layers",
        exclude_modules=["3.mlp.down_proj"], **task))
    case("llama-sharded", llama(), lm, LoraConfig(r=4, target_modules="all-linear", **task), shard="6KB")
    case("llama-rank-100", llama(), lm, LoraConfig(r=100, target_modules=qv, **task), dtype=bf16)
    case("llama-lm-head-untied", llama(), lm, LoraConfig(r=4, target_modules=["q_proj", "lm_head"], **task))
    case("llama-bias-all", llama(attention_bias=True), lm, LoraConfig(r=4, target_modules=qv, bias="all", **task))
    case("llama-saved-head", llama(), lm, LoraConfig(r=4, target_modules=qv, modules_to_save=["lm_head"], **task),
         dtype=bf16)
    case("llama-sequence-classifier", llama(num_labels=3, pad_token_id=0), seq,
         LoraConfig(r=4, target_modules=qv, task_type="SEQ_CLS"), save_as="model", dtype=bf16)
    case("qwen2-bf16", qwen2(), lm, LoraConfig(r=4, target_modules="all-linear", **task), dtype=bf16)
    case("gemma-tied", gemma(), lm, LoraConfig(r=4, target_modules="all-linear", **task))
    case("phi3-fused", phi3(), lm, LoraConfig(r=4, target_modules=["qkv_proj", "gate_up_proj"], **task))
    case("gpt-neox", gpt_neox(), lm, LoraConfig(r=4, target_modules=["query_key_value", "dense"], **task))
    case("opt-350m-layout", opt_350m_layout(), lm, LoraConfig(r=4, target_modules=qv + ["project_in"], **task))
    case("opt-without-prefix", opt_350m_layout(), lm, LoraConfig(r=4, target_modules=qv, **task), save_as="model",
         strip="model.")
    case("gpt2-conv1d", gpt2(), lm, LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], **task))
    case("gpt2-without-prefix", gpt2(), lm, LoraConfig(r=4, target_modules=["c_attn", "c_proj"], **task),
         save_as="transformer", dtype=bf16)
    case("bert-sequence-classifier", bert(), seq, LoraConfig(
        r=4, target_modules=["query", "value"], modules_to_save=["classifier"], task_type="SEQ_CLS"))
    case("bert-token-classifier", bert(), tok, LoraConfig(r=4, target_modules=["query", "value"], task_type="TOKEN_CLS"),
         save_as="bert")
    image = transformers.AutoModelForImageClassification
    every = ["q_proj", "down_proj"]
    case("llama-dora", llama(), lm, LoraConfig(r=4, target_modules=every, use_dora=True, **task))
    case("llama-dora-bf16", llama(), lm, LoraConfig(
        r=4, lora_alpha=6, target_modules="all-linear", use_dora=True, use_rslora=True, **task), dtype=bf16)
    case("llama-dora-f64", llama(), lm, LoraConfig(r=4, target_modules=every, use_dora=True, **task), dtype=f64)
    case("gpt2-dora", gpt2(), lm, LoraConfig(r=4, target_modules=["c_attn", "c_proj"], use_dora=True, **task))
    case("llama-embedding", llama(), lm, LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], **task), dtype=bf16)
    case("llama-embedding-dora", llama(), lm, LoraConfig(
        r=4, target_modules=["embed_tokens", "q_proj"], use_dora=True, **task))
    case("llama-lora-bias", llama(attention_bias=True), lm, LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], lora_bias=True, **task), dtype=bf16)
    case("llama-tokens", llama(), lm, LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[7, 1, 30],
                                                 **task), dtype=f16)
    case("llama-tokens-tied", llama(tie_word_embeddings=True), lm, LoraConfig(
        r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [0, 39]}, **task))
    case("resnet-convolution", resnet(), image, LoraConfig(r=4, target_modules=["convolution"]))
    case("resnet-convolution-dora", resnet(), image, LoraConfig(r=2, target_modules=["convolution"], use_dora=True),
         dtype=bf16)
    case("t5", t5(), s2s, LoraConfig(r=4, target_modules=["q", "v", "wo"], task_type="SEQ_2_SEQ_LM"))


if __name__ == "__main__":
    main()
