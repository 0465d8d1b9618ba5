"""Makes Fixtures/count: adapters on models of a few hundred parameters, with the line that PEFT prints for each.

Usage: python make_count_fixtures.py [OUTPUT]   (default: ../count beside this file)

`bases` holds each model once; a case names its base in base.txt, and the line is in count.txt. Needs the versions in
requirements.txt.
"""

import contextlib
import io
import pathlib
import shutil
import sys

import torch
import transformers
from peft import (
    BOFTConfig, HRAConfig, IA3Config, LoHaConfig, LoraConfig, OFTConfig, ShadowConfig,
    TrainableTokensConfig, VeraConfig, get_peft_model,
)
from peft.tuners.lora.config import MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file, save_model
from torch import nn
from transformers.pytorch_utils import Conv1D

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "count")
SMALL = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=24,
             max_position_embeddings=16)
TOKENS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
LLAMA = dict(SMALL, **TOKENS, num_key_value_heads=1)
VISION = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
PAIR = dict(vocab_size=24, max_position_embeddings=16, d_model=8, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12,
            decoder_start_token_id=2, forced_eos_token_id=2, **TOKENS)
CONFIGS = {
    "llama": lambda **k: transformers.LlamaConfig(**LLAMA, **k),
    "gpt2": lambda **k: transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=24, n_positions=16, **TOKENS, **k),
    "gptj": lambda **k: transformers.GPTJConfig(n_embd=8, n_layer=1, n_head=2, vocab_size=24, n_positions=16, rotary_dim=4,
                                                **TOKENS, **k),
    "gemma4": lambda **k: transformers.Gemma4TextConfig(**LLAMA, head_dim=4, global_head_dim=4, num_kv_shared_layers=0,
                                                        vocab_size_per_layer_input=24, hidden_size_per_layer_input=4, **k),
    "gpt_oss": lambda **k: transformers.GptOssConfig(**LLAMA, num_local_experts=2, head_dim=4, **k),
    "bert": lambda **k: transformers.BertConfig(**SMALL, **k),
    "roberta": lambda **k: transformers.RobertaConfig(**SMALL, **k),
    "deberta": lambda **k: transformers.DebertaConfig(**SMALL, **k),
    "distilbert": lambda **k: transformers.DistilBertConfig(vocab_size=24, max_position_embeddings=16, dim=8, hidden_dim=12,
                                                            n_layers=1, n_heads=2, **k),
    "t5": lambda **k: transformers.T5Config(vocab_size=24, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2,
                                            decoder_start_token_id=0, **k),
    "bart": lambda **k: transformers.BartConfig(**PAIR, **k),
    "marian": lambda **k: transformers.MarianConfig(**{**PAIR, "pad_token_id": 23, "decoder_start_token_id": 23}, **k),
    "vit": lambda **k: transformers.ViTConfig(**VISION, **k),
}
LM, FEATURES = transformers.AutoModelForCausalLM, transformers.AutoModel
MASKED, SEQUENCES = transformers.AutoModelForMaskedLM, transformers.AutoModelForSequenceClassification
PAIRS, IMAGES = transformers.AutoModelForSeq2SeqLM, transformers.AutoModelForImageClassification
PRETRAINING = transformers.AutoModelForPreTraining


class Parts(nn.Module):
    """Modules outside of transformers, whose kinds their weights' shapes do not tell."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(12, 6)
        self.conv1d = Conv1D(4, 6)
        self.groups = nn.Conv2d(4, 8, 3, groups=2)
        self.lin = nn.Linear(6, 4)
        self.mha = nn.MultiheadAttention(8, 2)
        self.gru = nn.GRU(4, 4, 2, bidirectional=True)
        self.lstm = nn.LSTM(4, 3)
        self.bn = nn.BatchNorm1d(4)
        self.register_buffer("steps", torch.zeros(3, dtype=torch.long))


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Module()
        self.lin.weight = nn.Parameter(torch.zeros(6, 4))
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(x)


def line(model):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        model.print_trainable_parameters()
    return text.getvalue()


def base(name, auto=None, change=None, suffix="", **settings):
    """Saves a model once; returns its name and what loads it."""
    kind = "" if auto in (None, LM) else "-" + auto.__name__.removeprefix("AutoModel").removeprefix("For").lower()
    key = f"{name}{kind}{suffix}"
    path = OUT / "bases" / key
    if not path.exists():
        torch.manual_seed(0)
        if auto is None:
            path.mkdir(parents=True)
            save_model({"parts": Parts, "bare": Bare}[name](), str(path / "model.safetensors"), {"format": "pt"})
        else:
            auto.from_config(CONFIGS[name](**settings)).save_pretrained(path)
            for extra in path.glob("generation_config.json"):
                extra.unlink()
            if change:
                tensors = load_file(path / "model.safetensors")
                change(tensors)
                save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return key


def case(name, key, config, auto=LM, prepare=None, **loading):
    def load():
        torch.manual_seed(0)
        if key.split("-")[0] in ("parts", "bare"):
            return {"parts": Parts, "bare": Bare}[key]()
        model = auto.from_pretrained(OUT / "bases" / key, **loading)
        return prepare(model) if prepare else model

    model = get_peft_model(load(), config)
    path = OUT / "cases" / name
    path.mkdir(parents=True)
    (path / "count.txt").write_text(line(model))
    (path / "base.txt").write_text(key + "\n")
    with contextlib.redirect_stdout(io.StringIO()):
        model.save_pretrained(path / "adapter")
    for extra in path.glob("adapter/README.md"):
        extra.unlink()
    settings = path / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(OUT / "bases"), "fixtures"))


def lora(*targets, r=2, **settings):
    return LoraConfig(r=r, target_modules=list(targets) or None, **settings)


def make_unknown_models():
    parts = base("parts")
    case("dora-embedding", parts, lora("emb", use_dora=True))
    case("dora-conv1d", parts, lora("conv1d", use_dora=True))
    case("lora-bias-conv1d", parts, lora("conv1d", lora_bias=True))
    case("mica-embedding", parts, lora("emb", init_lora_weights="mica"))
    case("mica-conv1d", parts, lora("conv1d", init_lora_weights="mica"))
    case("pissa-wide-rank", parts, lora("lin", init_lora_weights="pissa", r=5))
    case("groups", parts, lora("groups"))
    case("groups-dora", parts, lora("groups", use_dora=True))
    case("attention", parts, lora("mha"))
    case("attention-bias", parts, lora("mha", "lin", bias="lora_only"))
    case("attention-saved", parts, lora("lin", modules_to_save=["mha"]))
    case("gru-saved", parts, lora("lin", modules_to_save=["gru"]))
    case("lstm-saved-bias", parts, lora("lin", bias="all", modules_to_save=["lstm", "bn"]))
    case("gru-saved-ia3", parts, IA3Config(target_modules=["lin"], feedforward_modules=[], modules_to_save=["gru"]))
    case("lstm-saved-loha", parts, LoHaConfig(r=2, target_modules=["lin"], modules_to_save=["lstm"]))
    case("hra-bias", parts, HRAConfig(r=2, target_modules=["lin"], bias="all"))
    case("boft-bias", parts, BOFTConfig(boft_block_size=2, target_modules=["lin"], bias="boft_only"))
    case("parameter", base("bare"), lora(target_parameters=["lin.weight"]))
    case("velora", parts, lora("lin", velora_config=VeloraConfig(num_groups=2, init_type="random")))
    case("monteclora", parts, lora("lin", monteclora_config=MontecloraConfig(num_samples=3)))


def make_decoders():
    experts = base("gpt_oss", LM)
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    case("parameters-null", experts, lora(target_parameters=names, task_type="CAUSAL_LM"))
    case("parameters-empty", experts, LoraConfig(r=2, target_modules=[], target_parameters=names[1:], bias="all"))
    case("gemma4", base("gemma4", LM), lora("q_proj", task_type="CAUSAL_LM"))
    tied = base("llama", LM, suffix="-tied", tie_word_embeddings=True)
    for name, settings in (
        ("head", dict(target_modules=["lm_head"])), ("embedding", dict(target_modules=["embed_tokens"])),
        ("both", dict(target_modules=["embed_tokens", "lm_head"])),
        ("tokens", dict(target_modules=["q_proj"], trainable_token_indices=[1, 3])),
        ("saved-head", dict(target_modules=["q_proj"], modules_to_save=["lm_head"])),
        ("saved-both", dict(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])),
    ):
        for tying in (False, True):
            config = LoraConfig(r=2, task_type="CAUSAL_LM", ensure_weight_tying=tying, **settings)
            case(f"tied-{name}{'-ensured' if tying else ''}", tied, config)
    case("tied-token-lists", tied,
         lora("q_proj", trainable_token_indices={"embed_tokens": [1], "lm_head": [2, 3]}, task_type="CAUSAL_LM"))
    for name, targets in (("head", ["lm_head"]), ("both", ["embed_tokens", "lm_head"])):
        case(f"tied-rows-{name}", tied,
             TrainableTokensConfig(token_indices=[1, 2], target_modules=targets, task_type="CAUSAL_LM"))
    case("gptj-tied-saved-head", base("gptj", LM, suffix="-tied", tie_word_embeddings=True),
         lora("q_proj", modules_to_save=["lm_head"], task_type="CAUSAL_LM"))

    def same(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    def other(tensors):
        tensors["lm_head.weight"] = torch.ones(24, 8)

    for name, change in (("same", same), ("other", other)):
        stored = base("llama", LM, change, suffix=f"-tied-{name}-head", tie_word_embeddings=True)
        case(f"head-{name}", stored, lora("q_proj", task_type="CAUSAL_LM"))
        case(f"head-{name}-targeted", stored, lora("lm_head", task_type="CAUSAL_LM"))
        case(f"head-{name}-classifier", stored, lora("q_proj", task_type="SEQ_CLS"), SEQUENCES)

    def grown(model):
        model.resize_token_embeddings(27)
        return model

    case("resized-tokens", base("gpt2", LM), lora("c_attn", trainable_token_indices=[1, 25], task_type="CAUSAL_LM"),
         prepare=grown)
    case("rows-without-classifier", base("llama", SEQUENCES),
         TrainableTokensConfig(token_indices=[1, 2], task_type="SEQ_CLS"), SEQUENCES)


def make_encoders():
    for name, target in (("bert", "query"), ("roberta", "query"), ("deberta", "in_proj")):
        features = base(name, FEATURES)
        case(f"{name}-tokens", features, lora(target, trainable_token_indices=[1, 2], task_type="FEATURE_EXTRACTION"), FEATURES)
        classifier = base(name, SEQUENCES)
        case(f"{name}-classifier-bias", classifier, lora(target, bias="all", task_type="SEQ_CLS"), SEQUENCES)
        case(f"{name}-masked-bias", base(name, MASKED), lora(target, bias="all"), MASKED)
        case(f"{name}-classifier-of-masked", base(name, MASKED), lora(target, bias="all", task_type="SEQ_CLS"), SEQUENCES)
        case(f"{name}-features-of-masked", base(name, MASKED), lora(target, task_type="FEATURE_EXTRACTION"), FEATURES)
        case(f"{name}-tokens-of-features", features, lora(target, task_type="TOKEN_CLS"),
             transformers.AutoModelForTokenClassification)
        case(f"{name}-other-labels", classifier, lora(target, task_type="SEQ_CLS"), SEQUENCES, num_labels=5,
             ignore_mismatched_sizes=True)
    case("distilbert-classifier-of-masked", base("distilbert", MASKED), lora("q_lin", task_type="SEQ_CLS"), SEQUENCES)
    case("bert-masked-of-pretraining", base("bert", PRETRAINING), lora("query"), MASKED)
    case("bert-vera-bias", base("bert", SEQUENCES),
         VeraConfig(r=4, target_modules=["query"], bias="vera_only", task_type="SEQ_CLS"), SEQUENCES)
    case("bert-oft-bias", base("bert", SEQUENCES),
         OFTConfig(oft_block_size=2, target_modules=["query"], bias="oft_only", task_type="SEQ_CLS"), SEQUENCES)
    case("vit-classifier-of-bare", base("vit", FEATURES), lora("q_proj", modules_to_save=["classifier"]), IMAGES)


def make_pairs():
    for name, target in (("t5", "q"), ("bart", "q_proj")):
        pair = base(name, PAIRS)
        task = dict(task_type="SEQ_2_SEQ_LM")
        case(f"{name}-second-names", pair, lora("embed_tokens", **task), PAIRS)
        case(f"{name}-all-names-ensured", pair, lora("shared", "embed_tokens", ensure_weight_tying=True, **task), PAIRS)
        case(f"{name}-saved-names", pair, lora(target, modules_to_save=["shared", "embed_tokens"], **task), PAIRS)
        case(f"{name}-token-lists", pair,
             lora(target, trainable_token_indices={"shared": [1], "embed_tokens": [2]}, **task), PAIRS)
    case("t5-shadow", base("t5", PAIRS), ShadowConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q"]), PAIRS)
    case("marian", base("marian", PAIRS), lora("q_proj", task_type="SEQ_2_SEQ_LM"), PAIRS)


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    transformers.logging.set_verbosity_error()
    make_unknown_models()
    make_decoders()
    make_encoders()
    make_pairs()
