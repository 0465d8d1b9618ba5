"""Makes Fixtures/torch: files of torch.save that must be read, with their tensors as safetensors, and files that must be refused.

Usage: python make_torch_fixtures.py [OUTPUT]   (default: ../torch beside this file)

Each refused file is named after its damage; expected.json maps it to the error. Nothing here is ever loaded with Python's
pickle. Needs the versions in requirements.txt.
"""

import collections
import io
import json
import pathlib
import struct
import sys
import zipfile
import zlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "torch")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
          torch.uint8, torch.bool]


def accepted():
    out = OUT / "read"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    plain = {"a.weight": torch.randn(3, 4), "b.bias": torch.randn(5), "c": torch.tensor(2.5), "empty": torch.empty(0, 3)}
    every = {str(d).split(".")[1]: (torch.randn(2, 3) * 9).to(d) for d in DTYPES}
    base = torch.randn(6, 8)
    strided = {"transposed": base.t(), "column": base[:, 3], "steps": base[::2, 1::3], "row": base[4], "same": base,
               "expanded": torch.randn(1, 4).expand(3, 4)}
    parameters = collections.OrderedDict((k, torch.nn.Parameter(v)) for k, v in plain.items())
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    nested = {"epoch": 3, "state_dict": plain, "args": [1, 2.5, None, "text", (True, False)], "big": 2**40, "minus": -7}
    cases = {"plain": (plain, plain), "every-dtype": (every, every), "strided": (strided, strided),
             "parameters": (parameters, plain), "module": (module.state_dict(), module.state_dict()),
             "nested": (nested, plain)}
    for name, (value, tensors) in cases.items():
        torch.save(value, out / f"{name}.bin")
        torch.save(value, out / f"{name}-legacy.bin", _use_new_zipfile_serialization=False)
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, out / f"{name}.safetensors",
                  {"format": "pt"})


# What a pickle of one tensor looks like, to be damaged.
def storage(kind=b"ctorch\nFloatStorage\n", key=b"0", count=12):
    return (b"(X\x07\x00\x00\x00storage" + kind + b"X" + struct.pack("<I", len(key)) + key
            + b"X\x03\x00\x00\x00cpu" + b"J" + struct.pack("<i", count) + b"tQ")


def tensor(persistent=None, offset=0, shape=(3, 4), stride=(4, 1)):
    ints = lambda values: b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + (persistent or storage()) + b"J" + struct.pack("<i", offset)
            + ints(shape) + ints(stride) + b"\x89ccollections\nOrderedDict\n)RtR")


def state(value=None, key=b"w"):
    return b"\x80\x02}X" + struct.pack("<I", len(key)) + key + (value or tensor()) + b"s."


def archive(pickle, data=b"\0" * 48, names=("archive/data.pkl", "archive/data/0"), compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as zipped:
        for name, content in zip(names, (pickle, data)):
            zipped.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


def patched(blob, find, replace, occurrence=0):
    position = -1
    for _ in range(occurrence + 1):
        position = blob.index(find, position + 1)
    return blob[:position] + replace + blob[position + len(find):]


def called(name, arguments=b")"):
    module, attribute = name.rsplit(".", 1)
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n" + arguments + b"R"


def refused():
    good = archive(state())
    names = {  # P1, P4 to P8: names that are on no list
        "name-os-system": "posix.system", "name-eval": "builtins.eval", "name-python2": "__builtin__.eval",
        "name-getattr": "builtins.getattr", "name-import": "importlib.import_module", "name-partial": "functools.partial",
        "name-attrgetter": "operator.attrgetter", "name-submodule": "os.path.join", "name-torch-load": "torch.load",
        "name-torch-gadget": "torch._dynamo.guards.GuardBuilder.get", "name-numpy": "numpy.testing._private.utils.runstring",
        "name-nested-pickle": "torch.storage._load_from_bytes", "name-code": "types.CodeType",
        "name-file": "_io.FileIO", "name-prefix": "torch._utils._rebuild_tensor_v2x",
    }
    files = {k: ("pickleGlobal", archive(state(called(v)))) for k, v in names.items()}
    opcodes = {  # P2: instructions that torch does not write
        "opcode-stack-global": b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93", "opcode-inst": b"(ios\nsystem\n",
        "opcode-obj": b"(ccollections\nOrderedDict\no", "opcode-newobj-ex": b"ccollections\nOrderedDict\n)}\x92",
        "opcode-extension": b"\x82\x01", "opcode-text-id": b"Pstorage\n", "opcode-frame": b"\x95" + b"\0" * 8,
        "opcode-memoize": b"\x94", "opcode-set": b"\x8f", "opcode-text-integer": b"I1\n",
    }
    files |= {k: ("pickleOpcode", archive(state(v))) for k, v in opcodes.items()}
    malformed = {  # P3, P9, P13, P15
        "memo-unset": state(b"h\x07"), "memo-name": b"\x80\x02X\x01\x00\x00\x00aq\x00}h\x01h\x00s.",
        "build-on-tensor": state(tensor() + b"}b"), "setitem-on-list": b"\x80\x02]X\x01\x00\x00\x00aNs.",
        "append-to-dict": b"\x80\x02}Na.", "reduce-without-arguments": state(b"ctorch._utils\n_rebuild_tensor_v2\nNR"),
        "reduce-few-arguments": state(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), "reduce-of-type": state(called("torch.float32")),
        "stack-empty": b"\x80\x02.", "stack-left": b"\x80\x02NN.", "cut": state()[:-20], "no-stop": state()[:-1],
        "text-past-end": b"\x80\x02X\xff\xff\xff\xff", "put-nothing": b"\x80\x02q\x00.", "top-level-list": b"\x80\x02].",
        "protocol-5": b"\x80\x05}.", "persistent-id-text": state(b"X\x01\x00\x00\x00aQ"),
        "name-without-end": b"\x80\x02c" + b"a" * 2000, "negative-extent": state(tensor(shape=(-1, 4))),
        "negative-stride": state(tensor(stride=(-4, 1))), "negative-offset": state(tensor(offset=-1)),
        "negative-count": state(tensor(storage(count=-12))), "ranks-differ": state(tensor(stride=(4,))),
    }
    files |= {k: ("pickleMalformed", archive(v)) for k, v in malformed.items()}
    lies = {  # P10
        "count-too-large": state(tensor(storage(count=13))), "count-too-small": state(tensor(storage(count=11))),
        "key-missing": state(tensor(storage(key=b"7"))), "key-with-path": state(tensor(storage(key=b"../0"))),
        "offset-outside": state(tensor(offset=1)), "stride-outside": state(tensor(stride=(5, 1))),
        "shape-outside": state(tensor(shape=(4, 4))), "shape-overflow": state(tensor(shape=(2**31 - 1,) * 3, stride=(0, 0, 0))),
        "spread": state(tensor(shape=(2**30,), stride=(0,))), "dtype-wider": state(tensor(storage(b"ctorch\nDoubleStorage\n"))),
    }
    files |= {k: ("torchTensor", archive(v)) for k, v in lies.items()}
    crc = struct.pack("<I", zlib.crc32(state()))
    central = good.index(b"PK\x01\x02")
    containers = {  # P11, P12
        "zip-checksum": patched(good, crc, b"\1\2\3\4", 1), "zip-compressed": archive(state(), compression=zipfile.ZIP_DEFLATED),
        "zip-twice": archive(state(), names=("archive/data.pkl", "archive/data.pkl")),
        "zip-local-name": patched(good, b"archive/data.pkl", b"archive/data.pkx"),
        "zip-encrypted": good[:central + 8] + b"\1\0" + good[central + 10:],
        "zip-trailing": good + b"x", "zip-cut": good[:-30], "zip-no-pickle": archive(state(), names=("archive/x", "archive/data/0")),
        "zip-two-pickles": archive(state(), names=("archive/data.pkl", "other/data.pkl")),
        "zip-torchscript": archive(state(), names=("archive/data.pkl", "archive/code/x")),
        "zip-outside": good[:central + 42] + b"\xff\xff\xff\x7f" + good[central + 46:],
        "zip-big-endian": archive(state(), b"big", names=("archive/data.pkl", "archive/byteorder")),
    }
    files |= {k: ("archive", v) for k, v in containers.items()}
    strangers = {  # P11, P14
        "seven-zip": b"7z\xbc\xaf\x27\x1c" + b"\0" * 60, "tar": b"data.pkl" + b"\0" * 504, "empty": b"", "bare-pickle": state(),
        "zip-prefixed": b"PK\x07\x08" + good, "safetensors-content": struct.pack("<Q", 2) + b"{}",
        "magic-by-call": b"\x80\x02cbuiltins\nint\n)R.",
    }
    files |= {k: ("notTorch", v) for k, v in strangers.items()}
    out = OUT / "refused"
    out.mkdir(parents=True, exist_ok=True)
    for name, (_, blob) in files.items():
        (out / f"{name}.bin").write_bytes(blob)
    (out / "expected.json").write_text(json.dumps({k: v[0] for k, v in files.items()}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    accepted()
    refused()
