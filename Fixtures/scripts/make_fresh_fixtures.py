"""Makes cases of Fixtures/init for methods other than LoRA: fresh adapters as PEFT draws them after torch.manual_seed.

Usage: python make_fresh_fixtures.py [OUTPUT]   (default: ../init beside this file)

Each case is a directory with the adapter and case.json: the base, the seed and, where a decomposition or a norm of the base's
weight makes them, the endings of the tensors that are met within its rounding only. Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import peft
import torch
import transformers
from peft import get_peft_model

assert peft.__version__ == "0.21.2", peft.__version__

HERE = pathlib.Path(__file__).parent.parent
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "init")
LM = transformers.AutoModelForCausalLM
SEQ = transformers.AutoModelForSequenceClassification
IMAGE = transformers.AutoModelForImageClassification
S2S = transformers.AutoModelForSeq2SeqLM
QV = ["q_proj", "v_proj"]
LLAMA, QWEN, GPT2, RESNET = "llama-f32-qv", "qwen2-bf16", "gpt2-conv1d", "resnet-convolution"


def case(name, base, kind, config, seed, near=(), text=None, **settings):
    root = OUT / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    model = (LM if base != RESNET else IMAGE) if kind is None else kind
    model = model.from_pretrained(HERE / "merge" / base / "base", dtype="auto")
    if kind is None and base != RESNET:
        settings["task_type"] = "CAUSAL_LM"
    config = getattr(peft, config)(**settings)
    given = config.to_dict()
    torch.manual_seed(seed)
    tuned = get_peft_model(model, config)
    tuned.peft_config["default"].base_model_name_or_path = "fixtures/" + base
    tuned.save_pretrained(root)
    (root / "README.md").unlink()
    file = root / "adapter_config.json"
    written = json.loads(file.read_text())
    for key in ("target_modules", "exclude_modules", "feedforward_modules"):  # sets have no order: fix one
        if isinstance(written.get(key), list):
            written[key] = sorted(written[key])
    file.write_text(json.dumps(written, indent=2, sort_keys=True))
    facts = {"base": f"merge/{base}/base", "seed": seed, "near": list(near)}
    if text is not None:
        facts["text_tokens"] = text
    # What PEFT fills in or changes in the configuration when it makes the adapter.
    before = {}
    for key, value in given.items():
        value = sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        if key in written and written[key] != value and key not in ("inference_mode", "base_model_name_or_path"):
            before[key] = value
    if before:
        facts["given"] = before
    (root / "case.json").write_text(json.dumps(facts) + "\n")


def text_case(name, seed, text, tokens):
    """A prompt that starts from a text, on a base that has a tokenizer."""
    root, base = OUT / name, HERE / "running" / "chat"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:  # without the settings, which are of an older release
        transformers.PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json")).save_pretrained(scratch)
        ids = transformers.AutoTokenizer.from_pretrained(scratch)(text)["input_ids"]
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, prompt_tuning_init="TEXT",
                                         prompt_tuning_init_text=text, tokenizer_name_or_path=scratch)
        torch.manual_seed(seed)
        tuned = get_peft_model(LM.from_pretrained(base, dtype="auto"), config)
    tuned.peft_config["default"].base_model_name_or_path = "fixtures/chat"
    tuned.peft_config["default"].tokenizer_name_or_path = "fixtures/chat"
    tuned.save_pretrained(root)
    (root / "README.md").unlink()
    given = dict(num_layers=None, token_dim=None, num_attention_heads=None, num_transformer_submodules=None)
    (root / "case.json").write_text(json.dumps(
        {"base": "running/chat", "seed": seed, "near": [], "text_tokens": ids, "given": given}) + "\n")


def both(name, config, seed, bases=(LLAMA, QWEN), **settings):
    """On an f32 and a bf16 base, as PEFT starts it and with values everywhere."""
    start = settings.pop("start", "init_weights")
    for base in bases:
        ending = "" if base == bases[0] else "-" + {QWEN: "bf16", GPT2: "conv1d", RESNET: "convolution"}[base]
        case(f"{name}{ending}", base, None, config, seed, **settings)
        if start:
            case(f"{name}{ending}-not-zero", base, None, config, seed, **{**settings, start: False})


def main():
    # LoRA from the base's weights.
    factors = ["lora_A.weight", "lora_B.weight"]
    case("pissa", LLAMA, None, "LoraConfig", 80, r=3, lora_alpha=6, init_lora_weights="pissa", target_modules=QV, near=factors)
    case("pissa-conv1d", GPT2, None, "LoraConfig", 80, r=3, init_lora_weights="pissa", use_rslora=True, target_modules=["c_attn"],
         near=factors)
    case("pissa-bf16", QWEN, None, "LoraConfig", 80, r=3, init_lora_weights="pissa", target_modules=["down_proj"], near=factors)
    case("olora", LLAMA, None, "LoraConfig", 81, r=3, init_lora_weights="olora", target_modules=["q_proj", "down_proj", "up_proj"],
         near=factors)
    case("orthogonal", LLAMA, None, "LoraConfig", 82, r=4, init_lora_weights="orthogonal", target_modules=QV, near=factors)
    # Factors and rotations.
    both("ia3", "IA3Config", 31, start="init_ia3_weights", target_modules=["k_proj", "down_proj"],
         feedforward_modules=["down_proj"])
    both("ia3-conv1d", "IA3Config", 31, bases=(GPT2,), start="init_ia3_weights", target_modules=["c_attn", "mlp.c_proj"],
         feedforward_modules=["mlp.c_proj"])
    both("ia3-convolution", "IA3Config", 32, bases=(RESNET,), start="init_ia3_weights", target_modules=["convolution"],
         feedforward_modules=[])
    case("ia3-default-targets", LLAMA, None, "IA3Config", 33)
    both("adalora", "AdaLoraConfig", 34, start="init_lora_weights", init_r=5, target_r=2, total_step=10, target_modules=QV)
    case("adalora-conv1d", GPT2, None, "AdaLoraConfig", 34, init_r=3, total_step=10, target_modules=["c_attn"])
    both("loha", "LoHaConfig", 35, r=3, target_modules=QV, rank_pattern={"v_proj": 5})
    both("loha-convolution", "LoHaConfig", 36, bases=(RESNET,), r=2, target_modules=["convolution"])
    both("loha-convolution-effective", "LoHaConfig", 36, bases=(RESNET,), r=2, use_effective_conv2d=True,
         target_modules=["convolution"])
    both("lokr", "LoKrConfig", 37, r=2, target_modules=QV)
    both("lokr-both", "LoKrConfig", 38, r=1, decompose_both=True, target_modules=["q_proj", "down_proj"])
    case("lokr-full", LLAMA, None, "LoKrConfig", 39, r=64, decompose_factor=4, target_modules=QV)
    case("lokr-lycoris", LLAMA, None, "LoKrConfig", 40, r=2, init_weights="lycoris", target_modules=QV)
    both("lokr-convolution", "LoKrConfig", 41, bases=(RESNET,), r=1, target_modules=["convolution"])
    both("lokr-convolution-effective", "LoKrConfig", 41, bases=(RESNET,), r=1, use_effective_conv2d=True,
         target_modules=["convolution"])
    both("oft", "OFTConfig", 42, oft_block_size=8, target_modules=QV)
    case("oft-rank", LLAMA, None, "OFTConfig", 43, r=5, oft_block_size=0, target_modules=["q_proj", "down_proj"])
    case("oft-shared", LLAMA, None, "OFTConfig", 43, oft_block_size=7, block_share=True, coft=True, init_weights=False,
         target_modules=["q_proj", "down_proj"])
    both("oft-convolution", "OFTConfig", 44, bases=(RESNET,), oft_block_size=6, target_modules=["convolution"])
    both("oft-embedding", "OFTConfig", 44, bases=(LLAMA,), oft_block_size=4, target_modules=["embed_tokens", "q_proj"])
    both("boft", "BOFTConfig", 45, boft_block_size=4, target_modules=QV)
    case("boft-number", LLAMA, None, "BOFTConfig", 45, boft_block_size=0, boft_block_num=2, init_weights=False,
         target_modules=QV)
    both("boft-convolution", "BOFTConfig", 46, bases=(RESNET,), boft_block_size=3,
         target_modules=["layer.0.convolution"])
    both("hra", "HRAConfig", 47, r=4, target_modules=QV)
    case("hra-odd", LLAMA, None, "HRAConfig", 47, r=3, target_modules=QV)
    both("hra-convolution", "HRAConfig", 48, bases=(RESNET,), r=2, target_modules=["convolution"])
    both("road", "RoadConfig", 49, group_size=8, target_modules=QV)
    case("road-2", LLAMA, None, "RoadConfig", 49, variant="road_2", group_size=8, init_weights=False, target_modules=QV)
    case("road-4", LLAMA, None, "RoadConfig", 49, variant="road_4", group_size=8, init_weights=False, target_modules=QV)
    # Shared projections.
    both("vera", "VeraConfig", 50, r=6, target_modules=["q_proj", "v_proj", "down_proj"])
    case("vera-conv1d", GPT2, None, "VeraConfig", 50, r=6, target_modules=["c_attn", "c_fc"])
    case("vera-drawn-again", LLAMA, None, "VeraConfig", 50, r=6, save_projection=False, projection_prng_key=9,
         target_modules=QV)
    both("pvera", "PveraConfig", 51, r=4, target_modules=QV)
    both("randlora", "RandLoraConfig", 52, r=6, target_modules=QV, near=["randlora_A", "randlora_B"])
    case("randlora-sparse", LLAMA, None, "RandLoraConfig", 52, r=6, sparse=True, target_modules=QV,
         near=["randlora_A", "randlora_B"])
    case("randlora-drawn-again", QWEN, None, "RandLoraConfig", 52, r=6, save_projection=False, target_modules=QV)
    both("vblora", "VBLoRAConfig", 53, bases=(LLAMA, QWEN), start=None, r=2, num_vectors=12, vector_length=8, target_modules=QV)
    case("vblora-conv1d", GPT2, None, "VBLoRAConfig", 53, r=2, num_vectors=12, vector_length=4, target_modules=["c_attn"])
    both("unilora", "UniLoraConfig", 54, r=2, theta_d_length=20, target_modules=QV)
    case("unilora-indices", LLAMA, None, "UniLoraConfig", 54, r=2, theta_d_length=20, save_indices=True, target_modules=QV)
    both("tinylora", "TinyLoraConfig", 55, start=None, r=2, u=5, target_modules=QV, near=["tinylora_A", "tinylora_B"])
    case("tinylora-uniform", LLAMA, None, "TinyLoraConfig", 55, r=2, u=5, init_weights="uniform", weight_tying=0.5,
         target_modules=QV, near=["tinylora_A", "tinylora_B"])
    # Others.
    both("fourierft", "FourierFTConfig", 56, n_frequency=17, target_modules=QV, n_frequency_pattern={"v_proj": 5})
    case("fourierft-zero", LLAMA, None, "FourierFTConfig", 56, n_frequency=17, init_weights=True, target_modules=QV)
    case("fourierft-conv1d", GPT2, None, "FourierFTConfig", 56, n_frequency=17, target_modules=["c_attn"])
    both("waveft", "WaveFTConfig", 57, n_frequency=17, target_modules=QV, n_frequency_pattern={"v_proj": 5})
    both("waveft-proportional", "WaveFTConfig", 57, bases=(LLAMA,), n_frequency=17, proportional_parameters=True,
         target_modules=["q_proj", "down_proj", "v_proj"])
    case("waveft-conv1d", GPT2, None, "WaveFTConfig", 57, n_frequency=17, init_weights=False, target_modules=["c_attn"])
    both("c3a", "C3AConfig", 58, block_size=8, target_modules=QV, block_size_pattern={"v_proj": 4})
    case("c3a-gaussian", LLAMA, None, "C3AConfig", 58, block_size=8, init_weights="gaussian", target_modules=QV)
    case("c3a-kaiming", QWEN, None, "C3AConfig", 58, block_size=8, init_weights="kaiming_uniform", target_modules=QV)
    case("c3a-zero", LLAMA, None, "C3AConfig", 58, block_size=8, init_weights=True, target_modules=QV)
    both("miss", "MissConfig", 59, r=4, target_modules=QV)
    case("miss-bat", LLAMA, None, "MissConfig", 59, r=4, init_weights="bat", target_modules=QV)
    case("miss-mini", LLAMA, None, "MissConfig", 59, r=4, mini_r=2, init_weights="mini", target_modules=QV)
    both("gralora", "GraloraConfig", 60, r=4, target_modules=QV)
    both("gralora-hybrid", "GraloraConfig", 60, bases=(LLAMA,), r=4, hybrid_r=2, target_modules=QV)
    case("gralora-conv1d", GPT2, None, "GraloraConfig", 60, r=4, target_modules=["c_attn"])
    both("delora", "DeloraConfig", 61, r=3, target_modules=QV, rank_pattern={"v_proj": 2}, lambda_pattern={"q_proj": 7},
         near=["delora_w_norm"])
    both("hira", "HiraConfig", 62, r=3, target_modules=QV, rank_pattern={"v_proj": 2})
    case("hira-gaussian", LLAMA, None, "HiraConfig", 62, r=3, init_weights="gaussian", target_modules=QV)
    case("hira-conv1d", GPT2, None, "HiraConfig", 62, r=3, target_modules=["c_attn"])
    both("hira-embedding", "HiraConfig", 63, bases=(LLAMA,), r=3, target_modules=["embed_tokens", "q_proj"])
    both("hira-convolution", "HiraConfig", 63, bases=(RESNET,), r=2, target_modules=["convolution"])
    both("shira", "ShiraConfig", 64, r=2, random_seed=5, target_modules=QV)
    case("shira-own-seed", LLAMA, None, "ShiraConfig", 64, r=1, init_weights=False, target_modules=QV)
    both("supertuning", "SupertuningConfig", 65, bases=(LLAMA,), sparsity=0.95, target_modules=QV)
    both("supertuning-lora", "SupertuningConfig", 65, bases=(LLAMA,), sparsity=0.95, r=2, lora_alpha=4, target_modules=QV)
    both("peanut", "PeanutConfig", 66, r=3, target_modules=QV)
    both("peanut-deep", "PeanutConfig", 66, bases=(LLAMA,), r=3, depth=2, target_modules=QV)
    both("glora", "GloraConfig", 67, r=3, target_modules=QV)
    both("glora-constant", "GloraConfig", 67, bases=(QWEN,), r=3, config_A_B="constant", config_C="vector", config_D_E="vector",
         target_modules=QV)
    both("glora-vector", "GloraConfig", 67, bases=(QWEN,), r=3, config_A_B="vector", config_C="none", config_D_E="none",
         target_modules=QV)
    both("beft", "BeftConfig", 68, bases=(QWEN,), target_modules=QV)
    case("deft-not-zero", LLAMA, None, "DeftConfig", 69, r=3, init_weights=False, init_scale=0.5, target_modules=QV)
    case("deft-para", QWEN, None, "DeftConfig", 69, r=3, para=True, target_modules=QV)
    case("deft", LLAMA, None, "DeftConfig", 69, r=3, target_modules=QV, near=["deft_R"])
    both("trainable-tokens", "TrainableTokensConfig", 71, bases=(LLAMA,), token_indices=[3, 0, 9])
    case("trainable-tokens-bf16", QWEN, None, "TrainableTokensConfig", 71, token_indices=[3, 0, 9],
         target_modules=["embed_tokens"])
    case("trainable-tokens-tied", "gemma-tied", None, "TrainableTokensConfig", 71, token_indices=[3, 0])
    case("ln-tuning", LLAMA, None, "LNTuningConfig", 72, target_modules=["input_layernorm", "model.norm"])
    case("ln-tuning-default-targets", QWEN, None, "LNTuningConfig", 72)
    # Prompts.
    case("prompt", LLAMA, None, "PromptTuningConfig", 73, num_virtual_tokens=5)
    case("prompt-vocabulary", QWEN, None, "PromptTuningConfig", 73, num_virtual_tokens=5,
         prompt_tuning_init="SAMPLE_VOCAB")
    text_case("prompt-text", 78, "Hello world, the quick fox", 9)
    text_case("prompt-text-longer", 79, "Hello world, the quick fox", 2)
    case("prefix", LLAMA, None, "PrefixTuningConfig", 74, num_virtual_tokens=5)
    case("prefix-gpt2", GPT2, None, "PrefixTuningConfig", 74, num_virtual_tokens=3)
    case("prefix-zero", LLAMA, None, "PrefixTuningConfig", 74, num_virtual_tokens=5, init_weights="zero")
    case("prefix-projection", LLAMA, None, "PrefixTuningConfig", 75, num_virtual_tokens=5, prefix_projection=True,
         encoder_hidden_size=7, near=["prompt_embeddings"])
    case("p-tuning", LLAMA, None, "PromptEncoderConfig", 76, num_virtual_tokens=5, encoder_hidden_size=7,
         near=["prompt_embeddings"])
    case("multitask", LLAMA, None, "MultitaskPromptTuningConfig", 77, num_virtual_tokens=5, num_tasks=2, num_ranks=2)


if __name__ == "__main__":
    main()
