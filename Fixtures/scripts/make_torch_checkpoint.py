"""Writes a safetensors checkpoint as torch saves one: pytorch_model-….bin and its index, config.json beside them.

Usage: python make_torch_checkpoint.py SOURCE OUTPUT

For `peft-bench torch`. Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file


def main():
    source, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    output.mkdir(parents=True)
    index = {}
    for path in sorted(source.glob("*.safetensors")):
        tensors = load_file(path)
        name = path.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        torch.save(tensors, output / name)
        index.update(dict.fromkeys(tensors, name))
    (output / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    shutil.copy(source / "config.json", output)


if __name__ == "__main__":
    main()
