"""Makes Fixtures/safetensors: files that must be refused, each named after its damage, and files that must be accepted.

Usage: python make_safetensors_fixtures.py [OUTPUT]

refused/expected.json maps each file to the error that it must give; accepted/expected.json to the number of tensors.
Whether the reference library agrees is recorded beside each, for the reader. Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import struct
import sys

import safetensors
import torch
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "safetensors")
MAX = 2**63 - 1


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **extra):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **extra}


def packed(header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def reference_accepts(path):
    try:
        with safetensors.safe_open(path, "pt") as file:
            file.keys()
        return True
    except Exception:
        return False


REFUSED = {
    "h01-empty": (b"", "fileTooShort"),
    "h01-seven-bytes": (b"\0" * 7, "fileTooShort"),
    "h02-header-over-limit": (packed(b"{}", length=100_000_001), "headerTooLarge"),
    "h02-length-2-to-63": (packed(b"{}", length=2**63), "headerTooLarge"),
    "h02-length-all-ones": (packed(b"{}", length=2**64 - 1), "headerTooLarge"),
    "h03-header-past-end": (packed(b"{}", b"", length=3), "headerPastEnd"),
    "h04-not-utf8": (packed(b'{"\xff\xfe":1}'), "headerNotUTF8"),
    "h05-zero-length": (packed(b"", b""), "headerNotJSON"),
    "h05-truncated-json": (packed(b'{"a":{"dtype":"F32"'), "headerNotJSON"),
    "h05-trailing-text": (packed(json.dumps({"a": entry()}).encode() + b" x"), "headerNotJSON"),
    "h05-nul-padding": (packed(json.dumps({"a": entry()}).encode() + b"\0\0"), "headerNotJSON"),
    "h05-not-json": (packed(b"hello there"), "headerNotJSON"),
    "h05-nested-too-deep": (packed(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"), "headerNotJSON"),
    "h06-byte-order-mark": (packed(b"\xef\xbb\xbf" + json.dumps({"a": entry()}).encode()), "headerStart"),
    "h07-top-level-array": (packed(b"[]", b""), "headerNotObject"),
    "h07-entry-not-object": (packed({"a": 5}), "entryMalformed"),
    "h07-no-dtype": (packed({"a": {"shape": [2], "data_offsets": [0, 8]}}), "entryMalformed"),
    "h07-no-shape": (packed({"a": {"dtype": "F32", "data_offsets": [0, 8]}}), "entryMalformed"),
    "h07-no-offsets": (packed({"a": {"dtype": "F32", "shape": [2]}}), "entryMalformed"),
    "h07-three-offsets": (packed({"a": entry(offsets=(0, 8, 8))}), "entryMalformed"),
    "h07-one-offset": (packed({"a": entry(offsets=(0,))}), "entryMalformed"),
    "h08-negative-offset": (packed({"a": entry(offsets=(-8, 8))}), "numberInvalid"),
    "h08-negative-extent": (packed({"a": entry(shape=(-2,))}), "numberInvalid"),
    "h08-fractional-extent": (packed({"a": entry(shape=(2.5,))}), "numberInvalid"),
    "h08-exponent": (packed(b'{"a":{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}}'), "numberInvalid"),
    "h08-over-64-bits": (packed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551624]}}'),
                         "numberInvalid"),
    "h08-string-extent": (packed({"a": entry(shape=("2",))}), "numberInvalid"),
    "h09-unknown-dtype": (packed({"a": entry("F33")}), "dtypeUnknown"),
    "h10-metadata-number": (packed({"__metadata__": {"a": 1}, "a": entry()}), "metadataNotStrings"),
    "h10-metadata-array": (packed({"__metadata__": [], "a": entry()}), "metadataNotStrings"),
    "h11-duplicate-tensor": (packed(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2)), "duplicateKey"),
    "h11-duplicate-field": (packed(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
                            "duplicateKey"),
    "h12-end-before-begin": (packed({"a": entry(shape=(0,), offsets=(8, 0))}), "offsetsReversed"),
    "h13-overlap": (packed({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "overlap"),
    "h13-shared-range": (packed({"a": entry(), "b": entry()}), "overlap"),
    "h14-gap": (packed({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20), "gap"),
    "h14-first-not-at-zero": (packed({"a": entry(offsets=(4, 12))}, b"\0" * 12), "gap"),
    "h15-trailing-bytes": (packed({"a": entry()}, b"\0" * 9), "trailingBytes"),
    "h16-data-truncated": (packed({"a": entry()}, b"\0" * 7), "dataTruncated"),
    "h16-no-data": (packed({"a": entry()}, b""), "dataTruncated"),
    "name-too-deep": (packed({"a." * 200 + "w": entry()}), "nameTooDeep"),
    "h17-shape-too-small": (packed({"a": entry(shape=(1,))}), "sizeMismatch"),
    "h17-dtype-too-wide": (packed({"a": entry("F64")}), "sizeMismatch"),
    "h18-element-overflow": (packed({"a": entry(shape=(2**32, 2**32))}), "shapeOverflow"),
    "h18-byte-overflow": (packed({"a": entry(shape=(2**61,))}), "shapeOverflow"),
    "h18-overflow-then-zero": (packed({"a": entry(shape=(MAX, MAX, 0), offsets=(0, 0))}, b""), "shapeOverflow"),
    "h19-half-byte": (packed({"a": entry("F4", (3,), (0, 1))}, b"\0"), "subByteMisaligned"),
    "h19-six-bits": (packed({"a": entry("F6_E2M3", (2,), (0, 1))}, b"\0"), "subByteMisaligned"),
}

ACCEPTED = {
    "no-tensors": (packed(b"{}", b""), 0),
    "offsets-in-any-order": (packed({"b": entry(offsets=(8, 16)), "a": entry()}, bytes(range(16))), 2),
    "unaligned-data": (packed({"a": entry("U8", (3,), (0, 3)), "b": entry(offsets=(3, 11))}, b"\0" * 11), 2),
    "zero-elements": (packed({"a": entry(shape=(0, 4), offsets=(0, 0))}, b""), 1),
    "zero-elements-at-one-offset": (packed({"a": entry(shape=(0,), offsets=(0, 0)),
                                            "b": entry(shape=(2, 0), offsets=(0, 0)), "c": entry()}), 3),
    "scalar": (packed({"a": entry(shape=(), offsets=(0, 4))}, b"\0" * 4), 1),
    "white-space-after": (packed(json.dumps({"a": entry()}).encode() + b"  \n\t"), 1),
    "white-space-before": (packed(b" \n" + json.dumps({"a": entry()}).encode()), 1),
    "metadata-null": (packed({"__metadata__": None, "a": entry()}), 1),
    "metadata-empty": (packed({"__metadata__": {}, "a": entry()}), 1),
    "extra-key-in-entry": (packed({"a": entry(note="kept apart")}), 1),
    "unicode-names": (packed({"ä\"\\\n😀": entry()}), 1),
}

WIDTHS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
          "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
          "C64": 64, "F64": 64, "I64": 64, "U64": 64}


def every_dtype():
    header, position = {}, 0
    for name, bits in WIDTHS.items():
        end = position + 4 * bits // 8
        header[name] = entry(name, (4,), (position, end))
        position = end
    return packed(header, bytes(i % 251 for i in range(position)))


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    ACCEPTED["every-dtype"] = (every_dtype(), len(WIDTHS))
    for kind, cases in (("refused", REFUSED), ("accepted", ACCEPTED)):
        directory = OUT / kind
        directory.mkdir(parents=True)
        expected = {}
        for name, (content, answer) in cases.items():
            path = directory / f"{name}.safetensors"
            path.write_bytes(content)
            expected[path.name] = {"expected": answer, "reference_accepts": reference_accepts(path)}
        (directory / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    tensors = {"w": torch.arange(6, dtype=torch.float32).reshape(2, 3), "h": torch.ones(3, dtype=torch.bfloat16)}
    save_file(tensors, OUT / "written-by-library.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
