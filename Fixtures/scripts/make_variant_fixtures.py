"""Makes Fixtures/variants: LoRA that is more than W + s·B·A on a plain language model, with PEFT's merged results.

Usage: python make_variant_fixtures.py [OUTPUT]   (default: ../variants beside this file)

Fused experts, initialisations that change the base, block-diagonal and replicated adapters, resized vocabularies, and
models whose checkpoint names differ from their module names. Needs the versions in requirements.txt.
"""

import contextlib
import io
import json
import pathlib
import shutil
import sys

import make_merge_fixtures
import torch
import transformers
from make_merge_fixtures import LLAMA, bert, case, gpt2, llama, opt_350m_layout, qwen2, randomise
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "variants")
make_merge_fixtures.OUT = OUT
TASK = dict(task_type="CAUSAL_LM")
LM = transformers.AutoModelForCausalLM
VISION = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=8,
              patch_size=4)


def mixtral():
    return transformers.MixtralConfig(**LLAMA, num_local_experts=3)


def qwen3_moe(**extra):
    return transformers.Qwen3MoeConfig(**{**LLAMA, "moe_intermediate_size": 12, "num_experts": 3, "head_dim": 4,
                                          "mlp_only_layers": [], **extra})


def gpt_oss(**extra):
    return transformers.GptOssConfig(**{**LLAMA, "num_local_experts": 3, "head_dim": 4, **extra})


def llama4():
    return transformers.Llama4TextConfig(**LLAMA, intermediate_size_mlp=24, num_local_experts=3, head_dim=4)


def vit():
    return transformers.ViTConfig(**VISION, num_labels=3)


def llava():
    return transformers.LlavaConfig(text_config=llama(), vision_config=transformers.CLIPVisionConfig(**VISION))


def gemma3():
    text = transformers.Gemma3TextConfig(**LLAMA, head_dim=4)
    return transformers.Gemma3Config(text_config=text.to_dict(), mm_tokens_per_image=4,
                                     vision_config=transformers.SiglipVisionConfig(**VISION).to_dict())


def qwen2_vl():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
    vision = dict(depth=1, embed_dim=16, hidden_size=16, num_heads=4, mlp_ratio=2, patch_size=4)
    return transformers.Qwen2VLConfig(text_config=dict(LLAMA, rope_parameters=rope), vision_config=vision)


def rewrite_adapter(name, change):
    """Changes the tensors of a case's adapter in place."""
    path = OUT / name / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({k: v.contiguous() for k, v in change(tensors).items()}, path, {"format": "pt"})


def rewrite_config(name, **values):
    path = OUT / name / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}, indent=2, sort_keys=True))


def experts_of_former_transformers():
    """An adapter with a LoRA for each expert's own layers, as transformers 4 had them; PEFT 0.21.2 converts it."""
    name = "mixtral-former-adapter"
    case(name, mixtral(), LM, LoraConfig(r=2, target_modules=["q_proj"], **TASK))
    torch.manual_seed(7)
    new = {}
    for layer in range(2):
        for expert in range(3):
            for leaf, (out, inner) in {"w1": (24, 16), "w2": (16, 24), "w3": (24, 16)}.items():
                stem = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{leaf}"
                new[f"{stem}.lora_A.weight"] = torch.randn(2, inner) * 0.3
                new[f"{stem}.lora_B.weight"] = torch.randn(out, 2) * 0.3
    rewrite_adapter(name, lambda tensors: {**tensors, **new})
    rewrite_config(name, target_modules=["q_proj", "w1", "w2", "w3"], peft_version="0.17.0")
    merge_again(name)


def merge_again(name, kind=LM, dtype=torch.float32):
    root = OUT / name
    shutil.rmtree(root / "merged")
    model = kind.from_pretrained(root / "base", dtype=dtype)
    PeftModel.from_pretrained(model, root / "adapter").merge_and_unload().save_pretrained(root / "merged")
    (root / "merged" / "generation_config.json").unlink(missing_ok=True)


def experts_of_former_peft():
    """The layout of PEFT 0.18: "in" is the parameter's first extent. Merged by its formula, on the same base."""
    name = "qwen3-moe-former-layout"
    case(name, qwen3_moe(), LM, LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.down_proj"],
                                           **TASK))
    # ΔW = (B·A)ᵀ per expert: exchange the factors, which gives the transposed product.
    def exchange(tensors):
        out = dict(tensors)
        for key in [k for k in tensors if "experts.lora_A" in k]:
            a, b = tensors[key], tensors[key.replace("lora_A", "lora_B")]
            experts, rank = 3, 2
            b3 = b.reshape(b.shape[0], rank, experts).permute(2, 1, 0).reshape(experts * rank, -1)
            a3 = a.reshape(experts, rank, -1).permute(2, 1, 0).reshape(a.shape[1], -1)
            out[key], out[key.replace("lora_A", "lora_B")] = b3, a3
        return out
    rewrite_adapter(name, exchange)
    rewrite_config(name, peft_version="0.18.1")


def replication():
    """Copies that do not share their weights: what the adapter computes while it is apart."""
    name = "llama-replication"
    root = OUT / name
    layer_map = [[0, 2], [1, 3]]
    try:
        case(name, llama(num_hidden_layers=3), LM, LoraConfig(r=4, target_modules=["q_proj", "up_proj"],
                                                               layer_replication=layer_map, **TASK))
    except RuntimeError:  # transformers cannot save the merged model, whose layers share their weights
        pass
    shutil.rmtree(root / "merged", ignore_errors=True)
    (root / "adapter" / "README.md").unlink()
    tensors = load_file(root / "base" / "model.safetensors")
    order = [i for a, b in layer_map for i in range(a, b)]
    config = llama(num_hidden_layers=len(order))
    model = LM.from_config(config)
    state = {k: v for k, v in tensors.items() if ".layers." not in k}
    for new, old in enumerate(order):
        head = f"model.layers.{old}."
        state.update({f"model.layers.{new}." + k[len(head):]: v for k, v in tensors.items() if k.startswith(head)})
    model.load_state_dict(state)
    adapter = root / "apart"
    shutil.copytree(root / "adapter", adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "layer_replication": None}))
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(root / "merged")
    shutil.rmtree(adapter)
    (root / "merged" / "generation_config.json").unlink(missing_ok=True)


def resized(name, config, rows, lora, dtype=torch.float32):
    """The vocabulary is resized after loading and before training, as scripts that add tokens do."""
    torch.manual_seed(0)
    root = OUT / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    model = LM.from_config(config)
    randomise(model, 0.5)
    model = model.to(dtype)
    model.tie_weights()
    model.save_pretrained(root / "base")
    model = LM.from_pretrained(root / "base", dtype=dtype)
    model.resize_token_embeddings(rows)
    tuned = get_peft_model(model, lora)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
    tuned.save_pretrained(root / "adapter")  # with the base's real path, where PEFT looks for the vocabulary's size
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        tuned.print_trainable_parameters()
    (root / "count.txt").write_text(printed.getvalue())
    path = root / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["target_modules"] = sorted(settings["target_modules"])
    settings["base_model_name_or_path"] = "fixtures/" + name
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))
    fresh = LM.from_pretrained(root / "base", dtype=dtype)
    fresh.resize_token_embeddings(rows)
    PeftModel.from_pretrained(fresh, root / "adapter").merge_and_unload().save_pretrained(root / "merged")
    for extra in list(root.glob("*/README.md")) + list(root.glob("merged/generation_config.json")):
        extra.unlink()


def main():
    bf16 = torch.bfloat16
    image, pair = transformers.AutoModelForImageClassification, transformers.AutoModelForImageTextToText
    every = ["gate_up_proj", "down_proj"]
    case("mixtral-experts", mixtral(), LM, LoraConfig(r=2, target_modules=["q_proj"], target_parameters=[
        "mlp.experts.gate_up_proj", "mlp.experts.down_proj"], **TASK))
    case("mixtral-all-names", mixtral(), LM, LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "w1", "w2", "w3"],
                                                        **TASK), dtype=bf16)
    case("qwen3-moe-all-linear", qwen3_moe(), LM, LoraConfig(r=2, target_modules="all-linear", **TASK), dtype=bf16)
    case("qwen3-moe-patterns", qwen3_moe(), LM, LoraConfig(
        r=2, use_rslora=True, target_modules=["v_proj"], target_parameters=["experts.down_proj"],
        rank_pattern={"layers.1.mlp.experts.down_proj": 5}, **TASK))
    case("gpt-oss-experts", gpt_oss(), LM, LoraConfig(r=2, target_modules=["q_proj"], target_parameters=[
        "mlp.experts.gate_up_proj", "mlp.experts.down_proj"], **TASK))
    case("gpt-oss-square-experts", gpt_oss(intermediate_size=16), LM, LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"], **TASK))
    case("qwen3-moe-square-experts", qwen3_moe(moe_intermediate_size=16), LM, LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"], **TASK))
    case("llama4-experts", llama4(), LM, LoraConfig(r=2, target_modules=["q_proj"], target_parameters=[
        "feed_forward.experts." + name for name in every], **TASK))
    experts_of_former_transformers()
    experts_of_former_peft()
    case("llama-block-diagonal", llama(), LM, LoraConfig(
        r=4, target_modules=["q_proj", "o_proj", "up_proj", "down_proj"], use_bdlora=BdLoraConfig(
            nblocks=2, target_modules_bd_a=["o_proj", "down_proj"], target_modules_bd_b=["q_proj", "up_proj"]), **TASK))
    case("llama-kasa", llama(), LM, LoraConfig(r=4, target_modules=["q_proj", "up_proj", "down_proj"],
                                               kasa_config=KasaConfig(), **TASK))
    case("llama-velora", llama(), LM, LoraConfig(r=4, target_modules=["q_proj"], velora_config=VeloraConfig(num_groups=4),
                                                 **TASK))
    case("llama-monteclora", llama(), LM, LoraConfig(r=4, target_modules=["q_proj"], monteclora_config=MontecloraConfig(),
                                                     **TASK))
    for init in ("pissa", "olora"):
        case(f"llama-{init}", llama(), LM, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj", "down_proj"],
                                                      init_lora_weights=init, **TASK))
        case(f"llama-{init}-clipped", llama(), LM, LoraConfig(r=12, target_modules=["q_proj", "v_proj"],
                                                              init_lora_weights=init, **TASK))
    case("gpt2-pissa", gpt2(), LM, LoraConfig(r=4, lora_alpha=6, target_modules=["c_attn"], init_lora_weights="pissa",
                                              **TASK))
    case("llama-orthogonal", llama(), LM, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="orthogonal",
                                                     **TASK))
    replication()
    case("vit-all-linear", vit(), image, LoraConfig(r=4, target_modules="all-linear", modules_to_save=["classifier"]))
    case("vit-convolution", vit(), image, LoraConfig(r=4, target_modules=["projection", "q_proj"]), dtype=bf16)
    case("llava", llava(), pair, LoraConfig(r=4, target_modules=["q_proj", "linear_1", "lm_head"]))
    case("gemma3-all-linear", gemma3(), pair, LoraConfig(r=4, target_modules="all-linear"))
    case("qwen2-vl-all-linear", qwen2_vl(), pair, LoraConfig(r=4, target_modules="all-linear"))
    saved = dict(modules_to_save=["embed_tokens", "lm_head"])
    resized("llama-grown-saved", llama(), 43, LoraConfig(r=4, target_modules=["q_proj"], **saved, **TASK), bf16)
    resized("llama-grown-targeted", llama(), 44, LoraConfig(r=4, target_modules=["q_proj", "lm_head", "embed_tokens"],
                                                            **TASK))
    resized("qwen2-grown-tied", qwen2(tie_word_embeddings=True), 42, LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True, **TASK))
    resized("llama-grown-tokens", llama(), 43, LoraConfig(
        r=4, target_modules=["q_proj"], trainable_token_indices=[3, 41, 42], **TASK), bf16)
    resized("llama-grown-tokens-both", llama(), 43, LoraConfig(
        r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3, 41], "lm_head": [1, 42]}, **TASK))
    resized("qwen2-grown-tokens-tied", qwen2(tie_word_embeddings=True), 43, LoraConfig(
        r=4, target_modules=["q_proj"], trainable_token_indices=[40, 41, 42], **TASK))
    case("opt-350m-all-linear", opt_350m_layout(), LM, LoraConfig(r=4, target_modules="all-linear", **TASK), dtype=bf16)
    case("bert-dora-classifier", bert(), transformers.AutoModelForSequenceClassification, LoraConfig(
        r=4, target_modules=["query", "dense"], use_dora=True, task_type="SEQ_CLS"))


if __name__ == "__main__":
    main()
