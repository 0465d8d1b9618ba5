"""Makes Fixtures/random/torch.json: values drawn by torch's CPU generator, as bit patterns.

Usage: python make_random_fixtures.py [OUTPUT]
"""

import json
import math
import pathlib
import sys

import numpy
import torch

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "random")


def bits(tensor):
    return tensor.numpy().view(numpy.uint32).ravel().tolist()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    cases = []
    for seed in (0, 1, 42, 2**32 + 7):
        torch.manual_seed(seed)
        uniform = torch.empty(700).uniform_(-0.25, 0.5)
        weight = torch.empty(4, 20)
        torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        cases.append({"seed": seed, "uniform": bits(uniform), "kaiming_uniform_4x20": bits(weight)})
    (OUT / "torch.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
