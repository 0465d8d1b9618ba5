"""Loads what peft-tool's workbench makes in PEFT, and compares the change of each weight with what PEFT makes of the inputs.

Usage: python check_workbench.py PEFT_TOOL [FIXTURES]   (default: ../workbench beside this file)

Prints a line for each command: the relative error in all, which must be what the command itself prints. Needs the versions in
requirements.txt.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import peft
import torch

import make_workbench_fixtures as fixtures

warnings.simplefilter("ignore")
TOOL = sys.argv[1]
ROOT = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).parent.parent / "workbench")


def changes(path):
    torch.manual_seed(0)
    model = peft.PeftModel.from_pretrained(fixtures.Model(), path)
    return fixtures.deltas(model), model


def check(words, inputs):
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "out"
        printed = subprocess.run([TOOL, *map(str, words), str(out), "--json"], check=True, capture_output=True, text=True)
        answer = json.loads(printed.stdout)
        found, model = changes(out)
        want = {}
        for path, weight in inputs:
            for name, value in changes(path)[0].items():
                want[name] = want.get(name, 0) + weight * value
        names = [name for name in want if not name.endswith(".bias")]
        assert {name for name in found if not name.endswith(".bias")} == set(names), set(found) ^ set(names)
        lost = sum(((found[name] - want[name]) ** 2).sum() for name in names)
        error = (lost / sum((want[name] ** 2).sum() for name in names)).sqrt().item()
        for name in want:
            if name.endswith(".bias"):
                assert torch.allclose(found[name], want[name], atol=1e-6), name
        assert abs(error - answer["error"]) <= 1e-7 + 1e-5 * error, (words, error, answer["error"])
        print(f"{error:.3e}  {' '.join(str(word) for word in words)}".replace(str(ROOT), "."))
        return model


def main():
    one, two, three, four = (ROOT / "combine" / name for name in ("one", "two", "three", "four"))
    weighted = [(one, 1), (two, -0.5)]
    for flags in ([], ["--plain"], ["--rank", "3"], ["--rank", "30"], ["--energy", "0.9"], ["--rank", "3", "--plain"]):
        check(["combine", one, f"{two}:-0.5", *flags], weighted)
    check(["combine", f"{three}", f"{four}:-0.5"], [(three, 1), (four, -0.5)])
    check(["combine", one], [(one, 1)])
    check(["combine", f"{one}:0.3"], [(one, 0.3)])
    for flags in (["--rank", "2"], ["--rank", "9"], ["--energy", "0.8"], ["--sv-ratio", "2"]):
        check(["resize", one, *flags], [(one, 1)])
        check(["resize", two, *flags], [(two, 1)])
    for flags in ([], ["--rank", "4"], ["--energy", "0.99"]):
        check(["to-lora", ROOT / "convert" / "adapter", *flags], [(ROOT / "convert" / "adapter", 1)])


if __name__ == "__main__":
    main()
