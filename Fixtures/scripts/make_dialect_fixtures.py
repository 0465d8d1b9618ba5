"""Adapters in the forms of mlx-lm, llama.cpp, kohya, LyCORIS, XLabs and diffusers, made and read by their owners, and the PEFT
adapters that they are.

Versions: peft 0.21.2, torch 2.15.0, transformers 5.23.0, mlx 0.32.4, mlx-lm 0.32.2, gguf 0.19.0, diffusers 0.42.1,
lycoris-lora 4.1.3, xllamacpp 2026.10.11549, which runs the GGUF files.
Each case is a directory: `base` (config.json alone, for forms that need it), the owner's file or directory `foreign`, and
`peft` with the tensors of the PEFT adapter, its scale and rank in expected.json.
"""

import json
import os
import shutil
import sys
import tempfile

import gguf
import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model
from pathlib import Path
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FalconConfig, GPT2Config, LlamaConfig, MixtralConfig, Qwen2Config
import diffusers.loaders.lora_conversion_utils as converters

ROOT = Path(__file__).resolve().parent.parent / "dialects"
IDS = torch.tensor([[1, 5, 9, 20, 3]])
mx.set_default_device(mx.cpu)

LLAMA = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)


def case(name):
    directory = ROOT / name
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "peft").mkdir(parents=True)
    return directory


def finish(directory, tensors, modules):
    """tensors: of the PEFT adapter, by its names; modules: path -> [rank, scale]."""
    tensors = {k: v.clone().contiguous() for k, v in tensors.items()}
    save_file(tensors, directory / "peft/adapter_model.safetensors", metadata={"format": "pt"})
    (directory / "expected.json").write_text(json.dumps({"modules": modules}, indent=1, sort_keys=True))


def randomize(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            if "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))


def language_model(config, **settings):
    """A tiny model, its PEFT adapter with random values, and what they answer."""
    torch.manual_seed(7)
    base = AutoModelForCausalLM.from_config(config).float()
    directory = tempfile.mkdtemp()
    base.save_pretrained(directory)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="tiny", **settings)).eval()
    randomize(model)
    adapter = tempfile.mkdtemp()
    model.save_pretrained(adapter)
    return directory, adapter, model(IDS).logits.detach().numpy(), model


def modules_of(model):
    return {name.removeprefix("base_model.model."): [layer.r["default"], layer.scaling["default"]]
            for name, layer in model.named_modules() if hasattr(layer, "scaling") and hasattr(layer, "lora_A")}


def peft_case(name, base, adapter, model):
    directory = case(name)
    (directory / "base").mkdir()
    shutil.copy(f"{base}/config.json", directory / "base/config.json")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(f"{adapter}/{file}", directory / "peft" / file)
    (directory / "expected.json").write_text(json.dumps({"modules": modules_of(model)}, indent=1, sort_keys=True))
    return directory


# mlx-lm


def mlx_case(name, config, **settings):
    base, adapter, logits, peft_model = language_model(config, **settings)
    directory = peft_case(name, base, adapter, peft_model)
    (directory / "foreign").mkdir()
    tensors = load_file(f"{adapter}/adapter_model.safetensors")
    scales = {scale for _, scale in modules_of(peft_model).values()}
    dora = bool(settings.get("use_dora"))
    parameters = {"rank": settings["r"], "scale": scales.pop(), "dropout": 0.0,
                  "keys": sorted({".".join(k.split(".")[5:7]) for k in tensors})}
    experts = {}
    values = {}
    for key, tensor in tensors.items():
        path, role = key.removeprefix("base_model.model.").rsplit(".lora_", 1)
        role = {"A.weight": "lora_a", "B.weight": "lora_b", "magnitude_vector": "m"}[role]
        values[f"{path}.{role}"] = mx.array((tensor.T if tensor.ndim == 2 else tensor).contiguous().numpy())
    model, _ = load_model(Path(base))
    linear_to_lora_layers(model, settings_layers(config), parameters, use_dora=dora)
    model.load_weights(list(values.items()), strict=False)
    trained = dict(tree_flatten(model.trainable_parameters()))
    owned = {k: v for k, v in trained.items() if k.rsplit(".", 1)[-1] in ("lora_a", "lora_b", "m")}
    assert owned.keys() == values.keys()
    mx.save_safetensors(str(directory / "foreign/adapters.safetensors"), owned)
    (directory / "foreign/adapter_config.json").write_text(json.dumps(
        {"fine_tune_type": "dora" if dora else "lora", "num_layers": settings_layers(config),
         "lora_parameters": parameters, "model": "tiny"}, indent=4, sort_keys=True))
    again, _ = load_model(Path(base))
    answer = np.array(load_adapters(again, directory / "foreign")(mx.array(IDS.numpy())))
    assert np.abs(answer - logits).max() < 1e-5, name


def settings_layers(config):
    return config.num_hidden_layers


# llama.cpp


def interleaved(tensor, heads):
    return tensor.reshape(heads, 2, -1, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape)


def gguf_case(name, architecture, config, rows=lambda path, b: b, alpha=None, tokens=None, **settings):
    base, adapter, logits, peft_model = language_model(config, **settings)
    directory = peft_case(name, base, adapter, peft_model)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), config.num_hidden_layers)
    writer = gguf.GGUFWriter(str(directory / "foreign.gguf"), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha or settings["lora_alpha"])
    if tokens:
        writer.add_key_value("adapter.alora.invocation_tokens", tokens, gguf.GGUFValueType.ARRAY,
                             sub_type=gguf.GGUFValueType.UINT32)
    for key, tensor in load_file(f"{adapter}/adapter_model.safetensors").items():
        path, role = key.removeprefix("base_model.model.").rsplit(".lora_", 1)
        value = tensor.numpy()
        if role == "B.weight":
            value = rows(path, value)
        target = names.get_name(f"{path}.weight", try_suffixes=(".weight",))
        writer.add_tensor(f"{target}.lora_{role[0].lower()}", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # llama.cpp runs an aLoRA from its tokens on, and PEFT only where it is given them.
    if not tokens:
        write_base(base, architecture, config, rows, f"{base}/model.gguf")
        check_running(name, f"{base}/model.gguf", str(directory / "foreign.gguf"), logits)


def llama_rows(path, b):
    return interleaved(b, 4) if path.endswith("q_proj") else interleaved(b, 2) if path.endswith("k_proj") else b


def falcon_rows(path, b):
    if not path.endswith("query_key_value"):
        return b
    groups = b.reshape(2, 4 // 2 + 2, -1, b.shape[-1])
    return np.concatenate([groups[:, :-2].reshape(-1, b.shape[-1]), groups[:, -2].reshape(-1, b.shape[-1]),
                           groups[:, -1].reshape(-1, b.shape[-1])])


def write_base(directory, architecture, config, rows, path):
    """The model itself as GGUF, so that llama.cpp can run the adapter on it."""
    writer = gguf.GGUFWriter(path, architecture)
    heads, layers, width = config.num_attention_heads, config.num_hidden_layers, config.hidden_size
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * width)
    if architecture in ("gpt2", "falcon"):
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if architecture != "gpt2":
        writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or config.num_kv_heads)
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(width // heads)
    count = config.vocab_size
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>"] + [f"\u2581t{i}" for i in range(count - 3)])
    writer.add_token_scores([0.0] * count)
    writer.add_token_types([2, 3, 3] + [1] * (count - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), layers)
    for name, tensor in load_file(f"{directory}/model.safetensors").items():
        if name.endswith((".attn.bias", ".masked_bias")):
            continue
        value = tensor.float()
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            value = value.T
        value = value.numpy()
        if value.ndim == 2 and name.endswith(".weight"):
            value = rows(name.removesuffix(".weight"), value)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_running(name, model, adapter, logits):
    """llama.cpp's probabilities of the next token against those of PEFT's model."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = 64
    parameters.cpuparams.n_threads = 1
    parameters.warmup = False
    parameters.n_parallel = 1
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    answer = xllamacpp.Server(parameters).handle_completions(
        {"prompt": IDS[0].tolist(), "n_predict": 1, "n_probs": logits.shape[-1], "temperature": 1.0})
    answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    found = {t["id"]: t["logprob"] for t in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
    expected = torch.log_softmax(torch.tensor(logits[0, -1]).double(), 0)
    worst = max(abs(found[i] - float(expected[i])) for i in found)
    assert len(found) == logits.shape[-1] and worst < 2e-3, (name, worst)
    print(f"{name}: llama.cpp's log probabilities differ by {worst:.1e} at most")


# Image models


def image_case(name, foreign, expected, modules):
    """expected: diffusers' names, with the part of the pipeline; modules: of the one part."""
    directory = case(name)
    save_file({k: v.contiguous() for k, v in foreign.items()}, directory / "foreign.safetensors")
    part = next(iter(expected)).split(".")[0]
    finish(directory, {"base_model.model." + k.removeprefix(f"{part}."): v for k, v in expected.items()}, modules)


def kohya(names, rank, alpha, extent=8, dora=False):
    generator = torch.Generator().manual_seed(3)
    foreign = {}
    for name, outputs, kernel in names:
        foreign[f"{name}.lora_down.weight"] = torch.randn(rank, extent, *kernel, generator=generator)
        foreign[f"{name}.lora_up.weight"] = torch.randn(outputs, rank, *[1] * len(kernel), generator=generator)
        foreign[f"{name}.alpha"] = torch.tensor(float(alpha))
        if dora:
            foreign[f"{name}.dora_scale"] = torch.rand(outputs, 1, *[1] * len(kernel), generator=generator) + 1
    return foreign


def unet_case(name, names, rank, alpha):
    foreign = kohya(names, rank, alpha)
    class Config:
        layers_per_block = 2
    state = converters._maybe_map_sgm_blocks_to_diffusers(dict(foreign), Config())
    renamed, _ = converters._convert_non_diffusers_lora_to_diffusers(state)
    expected = {}
    for key, tensor in renamed.items():
        key = key.replace(".processor", "").replace("to_out_lora", "to_out.0_lora")
        for old in ("_lora.down", ".lora.down"):
            key = key.replace(old, ".lora_A")
        for old in ("_lora.up", ".lora.up"):
            key = key.replace(old, ".lora_B")
        expected[key] = tensor
    modules = {k.removeprefix("unet.").rsplit(".lora_", 1)[0]: [rank, alpha / rank] for k in expected}
    image_case(name, foreign, expected, modules)


def flux_case(name):
    names = [("lora_unet_double_blocks_0_img_attn_qkv", 24, ()), ("lora_unet_double_blocks_0_txt_attn_proj", 8, ()),
             ("lora_unet_double_blocks_1_img_mlp_0", 32, ()), ("lora_unet_double_blocks_0_txt_mod_lin", 48, ()),
             ("lora_unet_single_blocks_3_linear2", 8, ()), ("lora_unet_single_blocks_3_modulation_lin", 24, ()),
             ("lora_unet_final_layer_adaLN_modulation_1", 16, ()), ("lora_unet_img_in", 8, ()),
             ("lora_unet_time_in_in_layer", 8, ())]
    # alpha = rank, so that diffusers' converter multiplies nothing.
    foreign = kohya(names, 2, 2)
    expected = converters._convert_kohya_flux_lora_to_diffusers(dict(foreign))
    expected = {(k if k.startswith("transformer.") else f"transformer.{k}"): v for k, v in expected.items()}
    image_case(name, foreign, expected,
               {k.removeprefix("transformer.").rsplit(".lora_", 1)[0]: [2, 1.0] for k in expected})


def xlabs_case(name):
    generator = torch.Generator().manual_seed(5)
    foreign = {}
    for stem, outputs in [("double_blocks.0.processor.qkv_lora1", 24), ("double_blocks.0.processor.proj_lora1", 8),
                          ("double_blocks.0.processor.qkv_lora2", 24), ("double_blocks.0.processor.proj_lora2", 8),
                          ("single_blocks.1.processor.qkv_lora", 24), ("single_blocks.1.processor.proj_lora", 8)]:
        foreign[f"{stem}.down.weight"] = torch.randn(2, 8, generator=generator)
        foreign[f"{stem}.up.weight"] = torch.randn(outputs, 2, generator=generator)
    expected = converters._convert_xlabs_flux_lora_to_diffusers(dict(foreign))
    image_case(name, foreign, expected,
               {k.removeprefix("transformer.").rsplit(".lora_", 1)[0]: [2, 1.0] for k in expected})


def lycoris_case(name, algorithm, **settings):
    """A layer of LyCORIS and the same of PEFT: their changes of the weight are compared."""
    from lycoris import create_lycoris

    torch.manual_seed(11)
    model = torch.nn.ModuleDict({"mid_block": torch.nn.ModuleDict({
        "resnets": torch.nn.ModuleList([torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(8, 12, 3)})]),
        "attentions": torch.nn.ModuleList([torch.nn.ModuleDict({"proj_in": torch.nn.Linear(16, 24)})])})})
    network = create_lycoris(model, 1.0, linear_dim=2, linear_alpha=3, algo=algorithm, conv_dim=2, conv_alpha=3, **settings)
    for layer in network.loras:
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    foreign = {f"{layer.lora_name}.{k}": v.detach().clone() for layer in network.loras
               for k, v in layer.state_dict().items() if not k.startswith("org_")}
    changes = {}
    for layer in network.loras:
        path = layer.lora_name.removeprefix("lycoris_")
        path = {"mid_block_resnets_0_conv1": "mid_block.resnets.0.conv1",
                "mid_block_attentions_0_proj_in": "mid_block.attentions.0.proj_in"}[path]
        changes[path] = layer.get_weight(layer.shape).detach()  # get_diff_weight scales twice
    config = (LoHaConfig if algorithm == "loha" else LoKrConfig)(
        r=2, alpha=3, target_modules=["conv1", "proj_in"], **({} if algorithm == "loha" else {"decompose_factor": -1}))
    peft_model = get_peft_model(model, config)
    flat = {"mid_block_resnets_0_conv1": "mid_block.resnets.0.conv1",
            "mid_block_attentions_0_proj_in": "mid_block.attentions.0.proj_in"}
    expected, modules = {}, {}
    for key, tensor in foreign.items():
        stem, role = key.split(".", 1)
        path = flat[stem.removeprefix("lycoris_")]
        if role == "alpha":
            continue
        expected[f"unet.{path}.{role}"] = tensor
        # Where both factors are whole, LyCORIS scales by one.
        whole = f"{stem}.lokr_w1" in foreign and f"{stem}.lokr_w2" in foreign
        modules[path] = [2, 1.0 if whole else 1.5]
    state = {f"base_model.model.{k.removeprefix('unet.')}": v for k, v in expected.items()}
    from peft import set_peft_model_state_dict
    set_peft_model_state_dict(peft_model, state)
    for path, change in changes.items():
        own = peft_model.get_submodule(f"base_model.model.{path}").get_delta_weight("default") * modules[path][1] / 1.5
        assert torch.allclose(own.reshape(change.shape), change, atol=1e-5), (name, path)
    image_case(name, foreign, expected, modules)


def main():
    llama = LlamaConfig(**LLAMA)
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    mlx_case("mlx-lora", llama, r=4, lora_alpha=10, target_modules=every)
    mlx_case("mlx-rslora", llama, r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj"])
    mlx_case("mlx-dora", llama, r=4, lora_alpha=8, use_dora=True, target_modules=["q_proj", "v_proj"])
    gguf_case("gguf-llama", "llama", llama, rows=llama_rows, r=4, lora_alpha=10, target_modules=every)
    gguf_case("gguf-alora", "llama", llama, rows=llama_rows, tokens=[3, 9], r=4, lora_alpha=8,
              target_modules=["q_proj", "k_proj"], alora_invocation_tokens=[3, 9])
    gguf_case("gguf-qwen2", "qwen2", Qwen2Config(**LLAMA), r=4, lora_alpha=6, use_rslora=True, alpha=12.0,
              target_modules=["q_proj", "k_proj", "down_proj"])
    gguf_case("gguf-gpt2", "gpt2", GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=4, n_positions=64), r=4,
              lora_alpha=8, fan_in_fan_out=True, target_modules=["c_attn", "c_proj", "c_fc"])
    gguf_case("gguf-falcon", "falcon",
              FalconConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2,
                           new_decoder_architecture=True, alibi=False),
              rows=falcon_rows, r=4, lora_alpha=8, target_modules=["query_key_value", "dense_h_to_4h"])
    attention = "transformer_blocks_0_attn1"
    unet_case("kohya-sd1", [(f"lora_unet_down_blocks_0_attentions_0_{attention}_to_q", 8, ()),
                            (f"lora_unet_down_blocks_0_attentions_0_{attention}_to_out_0", 8, ()),
                            ("lora_unet_down_blocks_0_attentions_0_proj_in", 8, (1, 1)),
                            ("lora_unet_up_blocks_3_resnets_2_conv1", 8, (3, 3)),
                            ("lora_unet_mid_block_resnets_1_time_emb_proj", 8, ()),
                            ("lora_unet_down_blocks_2_downsamplers_0_conv", 8, (3, 3))], 2, 3)
    unet_case("kohya-sdxl", [(f"lora_unet_input_blocks_4_1_{attention}_to_q", 8, ()),
                             (f"lora_unet_output_blocks_2_1_{attention}_to_out_0", 8, ()),
                             ("lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj", 8, ()),
                             ("lora_unet_input_blocks_3_0_op", 8, (3, 3)),
                             ("lora_unet_output_blocks_5_2_conv", 8, (3, 3)),
                             ("lora_unet_input_blocks_7_0_in_layers_2", 8, (3, 3)),
                             ("lora_unet_input_blocks_7_0_emb_layers_1", 8, ()),
                             ("lora_unet_output_blocks_8_0_skip_connection", 8, (1, 1)),
                             ("lora_unet_time_embed_0", 8, ()), ("lora_unet_label_emb_0_2", 8, ()),
                             ("lora_unet_out_2", 8, (3, 3))], 4, 2)
    flux_case("kohya-flux")
    xlabs_case("xlabs-flux")
    lycoris_case("lycoris-loha", "loha")
    lycoris_case("lycoris-lokr", "lokr")


if __name__ == "__main__":
    main()
