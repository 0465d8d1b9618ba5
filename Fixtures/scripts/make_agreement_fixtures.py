"""Makes Fixtures/agreement: adapters, and the model that PEFT's merge_and_unload makes of each, as it saves it.

Usage: python make_agreement_fixtures.py [OUTPUT]   (default: ../agreement beside this file)

A case holds base, adapter, merged, and in count.txt the line that PEFT prints. Needs the versions in requirements.txt.
"""

import contextlib
import io
import pathlib
import shutil
import sys

import torch
import transformers
from peft import GloraConfig, HRAConfig, LoraConfig, PeftModel, ShadowConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "agreement")
SMALL = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=24,
             max_position_embeddings=16)
TOKENS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
LLAMA = dict(SMALL, **TOKENS, num_key_value_heads=1)
PAIR = dict(vocab_size=24, max_position_embeddings=16, d_model=8, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12, **TOKENS)
LM = transformers.AutoModelForCausalLM


def line(model):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        model.print_trainable_parameters()
    return text.getvalue()


def fill(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def change(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def tidy(path):
    for extra in [*path.rglob("README.md"), *path.rglob("generation_config.json")]:
        extra.unlink()
    settings = path / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(OUT), "fixtures"))


def case(name, config, adapter, auto=LM, edit=None, merges=True):
    path = OUT / name
    path.mkdir(parents=True)
    torch.manual_seed(0)
    fill(auto.from_config(config)).save_pretrained(path / "base")
    if edit:
        file = path / "base" / "model.safetensors"
        tensors = load_file(file)
        edit(tensors)
        save_file(tensors, file, {"format": "pt"})
    model = get_peft_model(auto.from_pretrained(path / "base"), adapter)
    (path / "count.txt").write_text(line(model))
    change(model)
    model.save_pretrained(path / "adapter")
    if merges:
        model = PeftModel.from_pretrained(auto.from_pretrained(path / "base"), path / "adapter")
        model.merge_and_unload().save_pretrained(path / "merged")
    tidy(path)


class Attentions(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)}) for _ in range(2))


def attentions(name, adapter):
    path = OUT / name
    (path / "base").mkdir(parents=True)
    torch.manual_seed(0)
    base = fill(Attentions())
    save_file(base.state_dict(), path / "base" / "model.safetensors", {"format": "pt"})
    model = get_peft_model(base, adapter)
    (path / "count.txt").write_text(line(model))
    change(model)
    model.save_pretrained(path / "adapter")
    tidy(path)


def main():
    shutil.rmtree(OUT, ignore_errors=True)

    def lora(*targets, **settings):
        return LoraConfig(r=2, target_modules=list(targets), **{"task_type": "CAUSAL_LM", **settings})

    def same(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    tied = transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)
    case("tie-head", tied, lora("lm_head", "q_proj"))
    case("tie-head-dora", tied, lora("lm_head", use_dora=True))
    case("tie-embedding", tied, lora("embed_tokens"))
    case("tie-stored-twice", tied, lora("q_proj"), edit=same)
    case("tie-stored-twice-head", tied, lora("lm_head"), edit=same)
    case("tie-gpt2", transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=24, n_positions=16, **TOKENS),
         lora("lm_head", "c_attn"))
    case("tie-both", tied, lora("embed_tokens", "lm_head", "q_proj"))
    case("tie-both-gpt2",
         transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=24, n_positions=16, **TOKENS),
         lora("wte", "lm_head"))
    case("tie-bias-all", transformers.RobertaConfig(**SMALL), lora("query", bias="all", task_type=None),
         transformers.AutoModelForMaskedLM)
    case("tie-bias", transformers.RobertaConfig(**SMALL), lora("query", task_type=None), transformers.AutoModelForMaskedLM)
    case("nested-config", transformers.MptConfig(d_model=8, n_layers=1, n_heads=2, vocab_size=24, max_seq_len=16, **TOKENS),
         lora("Wqkv"))
    case("saved-head-of-a-pair", transformers.MBartConfig(**PAIR),
         lora("q_proj", modules_to_save=["lm_head"], task_type="SEQ_2_SEQ_LM"), transformers.AutoModelForSeq2SeqLM)
    case("reflections", transformers.T5Config(vocab_size=24, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
                                              decoder_start_token_id=0),
         HRAConfig(r=4, apply_GS=True, target_modules=["q", "wi", "wo"], task_type="SEQ_2_SEQ_LM"),
         transformers.AutoModelForSeq2SeqLM)
    opt = transformers.OPTConfig(hidden_size=8, ffn_dim=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=24,
                                 max_position_embeddings=16, word_embed_proj_dim=8, **TOKENS)
    case("bias-stored-and-added", opt, lora("q_proj", "fc1", bias="all", lora_bias=True))
    case("bias-stored-and-changed", opt,
         GloraConfig(r=2, target_modules=["q_proj", "fc1"], bias="all", task_type="CAUSAL_LM"))
    case("default-in-names", transformers.LlamaConfig(**LLAMA),
         ShadowConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"), merges=False)
    attentions("attention-rank-pattern", LoraConfig(r=2, target_modules=["attn"], rank_pattern={"blocks.1.attn": 4}))


if __name__ == "__main__":
    main()
