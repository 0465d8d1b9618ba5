"""Makes Fixtures/random: values drawn by torch's CPU generator, as bit patterns, and by NumPy's default_rng.

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
        generator = torch.Generator().manual_seed(seed)
        half = torch.empty(4, 20, dtype=torch.bfloat16)
        torch.nn.init.kaiming_uniform_(half, a=math.sqrt(5), generator=generator)
        normals = {}
        for count in (5, 16, 33, 100, 256):
            generator = torch.Generator().manual_seed(seed)
            normals[str(count)] = bits(torch.normal(mean=0.0, std=0.5, size=(count,), generator=generator))
        permutations = {}
        for count in (1, 2, 10, 65536, 214748365):
            if count > 10**6 and seed != 1:
                continue
            generator = torch.Generator().manual_seed(seed)
            permutations[str(count)] = torch.randperm(count, generator=generator)[:20].tolist()
        cases.append({"seed": seed, "uniform": bits(uniform), "kaiming_uniform_4x20": bits(weight),
                      "kaiming_uniform_bf16_4x20": bits(half.float()), "normal": normals, "randperm": permutations})
    (OUT / "torch.json").write_text(json.dumps(cases) + "\n")
    cases = []
    for seed in (0, 42, 2**40 + 5):
        raw = [int(x) for x in numpy.random.default_rng(seed).bit_generator.random_raw(4)]
        chosen = {}
        for population, size in ((64, 5), (64, 64), (20000, 7), (20000, 900)):
            rng = numpy.random.default_rng(seed)
            chosen[f"{population},{size}"] = rng.choice(population, size=size, replace=False).tolist()
        rng = numpy.random.default_rng(seed)
        data = numpy.arange(1000)
        rng.shuffle(data)
        # Bit patterns that do not fit JSON readers' signed integers are written in two halves.
        cases.append({"seed": seed, "raw": [[x >> 32, x & 0xFFFFFFFF] for x in raw], "choice": chosen,
                      "shuffle": data.tolist()})
    (OUT / "numpy.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
