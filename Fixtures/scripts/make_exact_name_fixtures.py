"""Makes Fixtures/torch/read/equivalent-names: tensors and storages whose names only Unicode calls equal, as torch saves them.

Usage: python make_exact_name_fixtures.py
"""

import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "torch" / "read"
TENSORS = {"\u00e9.weight": torch.arange(3.0), "e\u0301.weight": torch.arange(4.0), "\u212a": torch.ones(1), "K": torch.zeros(1)}

torch.save(TENSORS, OUT / "equivalent-names.bin")
torch.save(TENSORS, OUT / "equivalent-names-legacy.bin", _use_new_zipfile_serialization=False)
save_file(TENSORS, OUT / "equivalent-names.safetensors", {"format": "pt"})
