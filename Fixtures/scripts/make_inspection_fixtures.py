"""Makes Fixtures/inspection: what numpy says of the changes that PEFT's merges of other fixtures' adapters make.

Usage: python make_inspection_fixtures.py [OUTPUT]   (default: ../inspection beside this file)

spectra.json maps an adapter to its modules: norm, singular values and effective rank (exp of the entropy of their shares) of
W' - W, of experts all together. comparisons.json is a list of pairs: by module cosine, relative difference and the overlap of
the columns' and of the rows' spaces (mean squared cosine of the angles between them), and cosine and difference in all. Merges are
made in f64. Needs the versions in requirements.txt.
"""

import json
import pathlib
import sys

import numpy
import peft
import transformers
from peft import PeftModel

assert peft.__version__ == "0.21.2", peft.__version__

HERE = pathlib.Path(__file__).parent.parent
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "inspection")

# Adapters that hold their change whole, and those of which only the base tells it.
ALONE = [
    "merge/llama-f32-qv", "merge/llama-f16-rslora", "merge/llama-patterns", "merge/llama-rank-100", "merge/llama-embedding",
    "merge/gpt2-conv1d", "variants/mixtral-experts", "methods/adalora", "methods/loha", "methods/lokr", "methods/c3a",
    "methods/delora", "methods/gralora", "methods/vblora",
]
WITH_BASE = ["methods/ia3", "methods/oft", "methods/vera", "methods/randlora", "methods/fourierft", "methods/ia3-gpt2"]
PAIRS = [
    ("several/lora-f32/one", "several/lora-f32/two", "several/lora-f32/base", False),
    ("several/lora-f32/two", "several/lora-f32/one", "several/lora-f32/base", True),
    ("several/loha-f32/one", "several/loha-f32/three", "several/loha-f32/base", False),
    ("several/lora-f32/one", "several/loha-f32/two", "several/lora-f32/base", False),
    ("several/bias-f32/one", "several/bias-f32/three", "several/bias-f32/base", True),
    ("methods/loha/adapter", "methods/lokr/adapter", "methods/loha/base", False),
    ("methods/vera/adapter", "merge/llama-dora/adapter", "methods/vera/base", True),
    ("methods/ia3/adapter", "methods/oft/adapter", "methods/ia3/base", True),
]


def change(base, adapter):
    """W' - W by parameter, `[out, in]`, those that change nothing left out."""
    def load():
        return transformers.AutoModelForCausalLM.from_pretrained(HERE / base, dtype="auto")

    before = load().double().state_dict()
    tuned = PeftModel.from_pretrained(load(), HERE / adapter).double()
    after = tuned.merge_and_unload().state_dict()
    found = {}
    for key, value in after.items():
        difference = (value - before[key]).numpy()
        if key in before and numpy.abs(difference).max() > 0:
            found[key] = difference.T if "embed_tokens" in key else difference
    return found


def blocks(array):
    """A change as matrices: one, or one an expert. Kernels count as inputs."""
    if array.ndim == 1:
        return [array[None, :]]
    return list(array) if array.ndim == 3 else [array.reshape(array.shape[0], -1)]


def spectrum(array):
    values = sorted((v for block in blocks(array) for v in numpy.linalg.svd(block, compute_uv=False)), reverse=True)
    shares = numpy.array([v for v in values if v > 0]) / sum(values)
    return {
        "norm": float(numpy.linalg.norm(array)), "values": [float(v) for v in values],
        "effective_rank": float(numpy.exp(-(shares * numpy.log(shares)).sum())),
    }


def overlap(a, b, rows):
    total, fewer, more, extent = 0.0, 0, 0, 0
    for one, two in zip(blocks(a), blocks(b)):
        bases = []
        for block in (one, two):
            block = block.T if rows else block
            u, s, _ = numpy.linalg.svd(block, full_matrices=False)
            bases.append(u[:, :int((s > s[0] * max(block.shape) * numpy.finfo(float).eps).sum())])
        total += (numpy.linalg.svd(bases[0].T @ bases[1], compute_uv=False) ** 2).sum()
        fewer += min(base.shape[1] for base in bases)
        more += max(base.shape[1] for base in bases)
        extent += bases[0].shape[0]
    return {"value": float(total / fewer), "chance": more / extent}


def module(name):
    return name.removesuffix(".weight")


def compare(first, second, base, with_base):
    a, b = change(base, first), change(base, second)
    modules = {}
    for name in sorted(set(a) & set(b)):
        one, two = a[name], b[name]
        modules[module(name)] = {
            "cosine": float((one * two).sum() / numpy.linalg.norm(one) / numpy.linalg.norm(two)),
            "relative_difference": float(numpy.linalg.norm(one - two) / numpy.linalg.norm(one)),
            "columns": overlap(one, two, False), "rows": overlap(one, two, True),
        }
    zero = numpy.zeros(1)
    product = sum((a[name] * b[name]).sum() for name in set(a) & set(b))
    squares = [sum((array ** 2).sum() for array in change.values()) for change in (a, b)]
    difference = sum(((a.get(name, zero) - b.get(name, zero)) ** 2).sum() for name in set(a) | set(b))
    return {
        "first": first, "second": second, "base": base if with_base else None, "modules": modules,
        "only_first": sorted(map(module, set(a) - set(b))), "only_second": sorted(map(module, set(b) - set(a))),
        "cosine": float(product / numpy.sqrt(squares[0] * squares[1])),
        "relative_difference": float(numpy.sqrt(difference / squares[0])),
    }


def write(name, value):
    OUT.mkdir(exist_ok=True)
    text = json.dumps(value, sort_keys=True)
    (OUT / name).write_text(text + "\n")


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def main():
    spectra = {}
    for name in ALONE + WITH_BASE:
        found = change(f"{name}/base", f"{name}/adapter")
        spectra[name] = {
            "base": name in WITH_BASE, "modules": {module(key): spectrum(array) for key, array in sorted(found.items())}}
    write("spectra.json", rounded(spectra))
    write("comparisons.json", rounded([compare(*pair) for pair in PAIRS]))


if __name__ == "__main__":
    main()
