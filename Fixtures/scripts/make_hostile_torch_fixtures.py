"""Makes Fixtures/torch/bombs: small files of torch.save's form that would take a reader's stack, memory, time or disk.

Usage: python make_hostile_torch_fixtures.py

Each is named after what it does; expected.json maps it to the error. Nothing here is ever loaded with Python's pickle.
"""

import io
import json
import pathlib
import struct
import zipfile

OUT = pathlib.Path(__file__).parent.parent / "torch" / "bombs"


def long(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(count, key=b"0"):
    return (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00" + key + b"X\x03\x00\x00\x00cpu" + long(count) + b"tQ")


def tensor(count, offset, shape, strides):
    ints = lambda values: b"(" + b"".join(long(v) for v in values) + b"t"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count) + long(offset) + ints(shape) + ints(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR")


def key(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def state(members):
    return b"\x80\x02}(" + b"".join(key(k) + v for k, v in members) + b"u."


def archive(name, pickle, data=b""):
    with zipfile.ZipFile(OUT / f"{name}.bin", "w", zipfile.ZIP_STORED) as file:
        for path, content in {"x/data.pkl": pickle, "x/data/0": data, "x/version": b"3\n"}.items():
            file.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), content)


OUT.mkdir(parents=True, exist_ok=True)
kilobyte = bytes(1024)
cases = {
    "deep-lists": (b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b".", b"", "pickleMalformed"),
    "deep-tuples": (b"\x80\x02)" + b"\x85" * 30_000 + b".", b"", "pickleMalformed"),
    "deep-dicts": (b"\x80\x02" + b"}X\x0a\x00\x00\x00state_dict" * 3_000 + b"}" + b"s" * 3_000 + b".", b"", None),
    "list-within-itself": (b"\x80\x02}q\x01X\x0a\x00\x00\x00state_dicth\x01s.", b"", None),
    # One list of 4,000 pairs, of which 5,000 dicts are made.
    "dict-bomb": (b"\x80\x02ccollections\nOrderedDict\nq\x01]q\x02(" + b"X\x00\x00\x00\x00N\x86" * 4_000 + b"e"
                  + b"h\x01h\x02\x85R" * 5_000 + b".", b"", "pickleMalformed"),
    "expanded": (state([("w", tensor(256, 0, [1 << 24, 2], [0, 1]))]), kilobyte, "torchTensor"),
    "expanded-often": (state([(f"w{i}", tensor(256, i, [1 << 22, 2], [0, 1])) for i in range(100)]), kilobyte, "torchTensor"),
    "views": (state([(f"w{i}", tensor(256, i % 256, [256 - i % 256], [1])) for i in range(256)]), kilobyte, None),
    "views-of-much": (state([(f"w{i}", tensor(1 << 14, i, [2, 1 << 13], [0, 1])) for i in range(800)]),
                      bytes(1 << 16), "torchTensor"),
    "empty-and-huge": (state([("w", tensor(256, 0, [0, 1 << 62], [1 << 62, 1]))]), kilobyte, "torchTensor"),
    "empty-huge-twice": (state([("w", tensor(256, 0, [0, 1 << 62, 1 << 62], [1, 1, 1]))]), kilobyte, "torchTensor"),
    "empty-far-off": (state([("w", tensor(256, 1 << 62, [0, 3], [3, 1]))]), kilobyte, None),
    "far-off": (state([("w", tensor(256, (1 << 62) + 5, [2, 3], [1 << 62, 1]))]), kilobyte, "torchTensor"),
    "strides-overflow": (state([("w", tensor(256, 0, [3, 3], [1 << 62, 1 << 62]))]), kilobyte, "torchTensor"),
    "storage-overflow": (state([("w", tensor(1 << 62, 0, [2], [1]))]), kilobyte, "torchTensor"),
    "deep-name": (state([("a." * 200 + "w", tensor(256, 0, [1], [1]))]), kilobyte, "nameTooDeep"),
    "no-rows-and-strides": (state([("w", tensor(256, 0, [0, 4096, 4096], [1 << 62, 1 << 62, 1 << 62]))]), kilobyte, None),
}
for name, (pickle, data, _) in cases.items():
    archive(name, pickle, data)
(OUT / "expected.json").write_text(json.dumps({name: error for name, (_, _, error) in cases.items()}, indent=1) + "\n")
