"""Extracts adapters with peft-tool from the models of Fixtures/extraction, and loads them in PEFT.

Usage: python check_extraction.py PEFT_TOOL [FIXTURES]   (default: ../extraction beside this file)

Of each case: PEFT loads the adapter without a missing or unexpected tensor; its model gives the logits of the model that 'peft-tool
merge' makes; the merged weights differ from the fine-tuned ones by the error that was printed; and with full rank and all flags the
logits are those of the fine-tuned model. Needs the versions in requirements.txt.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import peft
import torch
import transformers

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
TOOL = sys.argv[1]
ROOT = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).parent.parent / "extraction")


def run(*words):
    return subprocess.run([TOOL, *map(str, words)], check=True, capture_output=True, text=True).stdout


def model(path, like=None):
    config = transformers.AutoConfig.from_pretrained(like or path)
    kind = getattr(transformers, config.architectures[0])
    arguments = {"config": config} if like else {}
    return kind.from_pretrained(path, dtype=torch.float32, **arguments).eval()


def logits(model):
    torch.manual_seed(3)
    with torch.no_grad():
        if hasattr(model.config, "num_channels"):
            return model(pixel_values=torch.randn(2, 3, 32, 32)).logits
        return model(input_ids=torch.randint(3, 30, (2, 9)), attention_mask=torch.ones(2, 9, dtype=torch.long)).logits


def measured(merged, tuned, base):
    lost = squares = 0
    old, new = base.state_dict(), merged.state_dict()
    for name, other in tuned.named_parameters():
        one = new.get(name, torch.zeros_like(other))
        # Rows that only the fine-tuned model has count from zero.
        before, made = torch.zeros_like(other), torch.zeros_like(other)
        made[:len(one)] = one
        if name in old:
            before[:len(old[name])] = old[name]
        lost += ((made - other).double() ** 2).sum().item()
        squares += ((other - before).double() ** 2).sum().item()
    return (lost / squares) ** 0.5


def check(case, scratch, *flags, whole=False):
    base, tuned, out, merged = ROOT / case / "base", ROOT / case / "tuned", scratch / "out", scratch / "merged"
    answer = json.loads(run("extract", base, tuned, out, "--json", "--force", *flags))
    run("merge", "-q", "--force", base, out, merged)
    class_of = tuned if "classifier" in case else None
    source = model(base, like=class_of)
    wanted = model(tuned)
    rows = wanted.get_input_embeddings().weight.shape[0] if hasattr(wanted.config, "vocab_size") else 0
    if rows and rows != source.get_input_embeddings().weight.shape[0] and "--with-embeddings" in flags:
        source.resize_token_embeddings(rows, mean_resizing=False)
    loaded = peft.PeftModel.from_pretrained(source, out).eval()
    want, found = logits(model(merged, like=class_of)), logits(loaded)
    # A merge into halves rounds.
    near = 2e-3 if "rounded" in case else 2e-5
    assert torch.allclose(found, want, atol=near), (case, flags, (found - want).abs().max())
    error = measured(model(merged, like=class_of), wanted, model(base, like=class_of)) if rows else float("nan")
    if whole:
        assert torch.allclose(found, logits(wanted), atol=max(near, 2e-4)), (case, (found - logits(wanted)).abs().max())
    print(f"{case:15s} printed {answer['error']:.4e} measured {error:.4e}  {' '.join(flags)}")


def main():
    everything = ["--with-embeddings", "--with-norms", "--with-biases"]
    with tempfile.TemporaryDirectory() as directory:
        for case in sorted(path.name for path in ROOT.iterdir()):
            # A classifier's head is new: without it there is nothing to compare.
            if case != "classifier":
                check(case, pathlib.Path(directory), "--rank", "4")
                check(case, pathlib.Path(directory), "--energy", "0.6")
            check(case, pathlib.Path(directory), "--rank", "64", *everything, whole=True)


if __name__ == "__main__":
    main()
