"""Makes Fixtures/extraction: models and what training in full made of them, for adapters to be extracted from.

Usage: python make_extraction_fixtures.py [OUTPUT]   (default: ../extraction beside this file)

Each case is a directory with base/ and tuned/, saved by transformers:
llama          every tensor differs, f32; singular.json holds numpy's singular values of each weight's change, and ranks.json the
               ranks that hold 0.5 and 0.9 of its squares; mergekit is what mergekit 0.1.5 makes of both (not made by this script):
               mergekit-extract-lora --model tuned --base-model base --out-path mergekit --max-rank 4 --embed-lora -e lm_head
               -e embed_tokens
llama-rounded  bf16; a change of rank 3 was added to some projections and the sum rounded, the rest is equal
llama-tied     tied, with a vocabulary that has grown by four tokens; shards, and .bin files in tuned/
llama-untied   a tied base whose head became one of its own
llama-grown    not tied; embedding and head have four more rows
qwen2          biases on some projections
gpt2           Conv1D, tied
resnet         convolutions and batch norms
mixtral        experts that share a parameter in the model and have matrices of their own in the file
classifier     a sequence classifier made of a causal language model
Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys

import numpy
import torch
import transformers

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "extraction")
LLAMA = dict(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, bos_token_id=1, eos_token_id=2)


def save(model, case, name, **arguments):
    path = OUT / case / name
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path, **arguments)
    (path / "generation_config.json").unlink(missing_ok=True)


def tune(model, seed, size=0.02, only=lambda name: True):
    """Full training's stand-in: a change whose singular values fall, of each parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not only(name):
                continue
            change = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                flat = change.flatten(-2) if parameter.dim() == 3 else change.reshape(change.shape[0], -1)
                u, s, v = torch.linalg.svd(flat.reshape(-1, flat.shape[-1]), full_matrices=False)
                s = s[0] * 0.8 ** torch.arange(len(s))
                change = (u * s @ v).reshape(parameter.shape)
            parameter += size * change


def singular(before, after):
    values = {}
    after = dict(after.named_parameters())
    for name, old in before.named_parameters():
        if name.endswith("proj.weight"):
            change = after[name].detach().double() - old.detach().double()
            values[name.removesuffix(".weight")] = numpy.linalg.svd(change.numpy(), compute_uv=False).tolist()
    return values


def pair(case, make, seed=7, before={}, after={}, change=None, **tuning):
    torch.manual_seed(seed)
    model = make()
    save(model, case, "base", **before)
    if change is not None:
        model = change(model)
    tune(model, seed, **tuning)
    save(model, case, "tuned", **after)
    return model


def llama(**settings):
    return lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **settings}))


def resized(model):
    torch.manual_seed(11)
    model.resize_token_embeddings(model.config.vocab_size + 4, mean_resizing=False)
    return model


def untied(model):
    model.config.tie_word_embeddings = False
    other = transformers.LlamaForCausalLM(model.config)
    other.load_state_dict(model.state_dict())
    return other


def main():
    torch.manual_seed(7)
    make = llama(tie_word_embeddings=False)
    before = make()
    torch.manual_seed(7)
    after = pair("llama", make)
    values = singular(before, after)
    (OUT / "llama" / "singular.json").write_text(json.dumps(values, indent=1))
    ranks = {}
    for share in (0.5, 0.9):
        squares = {name: numpy.cumsum(numpy.square(all)) for name, all in values.items()}
        ranks[str(share)] = {
            name: int(numpy.searchsorted(sums / sums[-1], share)) + 1 for name, sums in squares.items()}
    (OUT / "llama" / "ranks.json").write_text(json.dumps(ranks, indent=1))

    wide = llama(
        tie_word_embeddings=False, hidden_size=64, intermediate_size=96, num_hidden_layers=1, dtype=torch.bfloat16)
    torch.manual_seed(7)
    model = wide().to(torch.bfloat16)
    save(model, "llama-rounded", "base")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "up_proj.weight", "down_proj.weight")):
                b = torch.randn(parameter.shape[0], 3, generator=generator)
                a = torch.randn(3, parameter.shape[1], generator=generator)
                parameter.copy_((parameter.float() + 4e-4 * b @ a).to(torch.bfloat16))
    save(model, "llama-rounded", "tuned")

    pair("llama-tied", llama(tie_word_embeddings=True), before={"max_shard_size": "8KB"}, change=resized)
    tied = transformers.AutoModelForCausalLM.from_pretrained(OUT / "llama-tied" / "tuned")
    shutil.rmtree(OUT / "llama-tied" / "tuned")
    (OUT / "llama-tied" / "tuned").mkdir()
    tied.config.save_pretrained(OUT / "llama-tied" / "tuned")
    torch.save(tied.state_dict(), OUT / "llama-tied" / "tuned" / "pytorch_model.bin")
    pair("llama-untied", llama(tie_word_embeddings=True), change=untied)
    pair("llama-grown", llama(tie_word_embeddings=False), change=resized)
    pair("qwen2", lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LLAMA, tie_word_embeddings=False)))
    pair("gpt2", lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)))
    pair("resnet", lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=3)))
    pair("mixtral", lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(
        **{**LLAMA, "num_hidden_layers": 1}, num_local_experts=3, num_experts_per_tok=2, tie_word_embeddings=False)))

    def classifier(model):
        torch.manual_seed(12)
        other = transformers.LlamaForSequenceClassification(
            transformers.LlamaConfig(**LLAMA, num_labels=3, pad_token_id=0))
        other.model.load_state_dict(model.model.state_dict())
        return other

    pair("classifier", llama(tie_word_embeddings=False), change=classifier)


if __name__ == "__main__":
    main()
