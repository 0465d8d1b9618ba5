"""Makes Fixtures/hub/addresses.json: what huggingface_hub makes of addresses. `make_address_fixtures.py`, with HF_ENDPOINT unset."""

import json
import pathlib

import huggingface_hub
from huggingface_hub.utils import parse_hf_uri

COMMIT = "ab" * 20
ADDRESSES = [
    "hf://owner/name", "hf://owner/name/", "hf://models/owner/name", "hf://owner/name@v1", "hf://owner/name@v1.0/sub/adapter",
    "hf://owner/name/sub/adapter", f"hf://owner/name@{COMMIT}/model.safetensors", "hf://owner/name@refs/pr/12",
    "hf://owner/name@refs/pr/12/sub", "hf://owner/name@refs/convert/parquet-v2/a", "hf://owner/name@refs%2Fpr%2F3/a",
    "hf://owner/name@feature%2Ffoo", "hf://owner/name@feature/foo", "hf://owner/name/a@b.bin", "hf://owner/name/sub/file@1.txt",
    "hf://owner/name@", "hf://", "hf:///", "hf://owner/name//sub", "hf://owner/", "hf:///owner/name",
    "hf://datasets/owner/name", "hf://spaces/owner/name", "hf://buckets/owner/name", "hf://kernels/owner/name",
    "hf://model/owner/name", "hf://dataset/owner/name", "hf://a--b/name", "hf://owner/na me", "hf://owner/name.git",
    "hf://owner/-name", "hf://owner/name.", "hf://@v1",
    "https://huggingface.co/owner/name", "https://huggingface.co/owner/name/", "http://huggingface.co/owner/name",
    "https://hf.co/owner/name", "HTTPS://HuggingFace.co/owner/name", "huggingface.co/owner/name", "hf.co/owner/name/tree/main",
    "https://huggingface.co/models/owner/name", "https://huggingface.co/owner/name/tree/main",
    "https://huggingface.co/owner/name/tree/v1/sub/adapter", "https://huggingface.co/owner/name/tree",
    "https://huggingface.co/owner/name/tree/refs%2Fpr%2F1", "https://huggingface.co/owner/name/tree/refs/pr/1/sub",
    "https://huggingface.co/owner/name/blob/main/adapter_config.json?download=true",
    "https://huggingface.co/owner/name/resolve/main/sub/model.safetensors#x", "https://huggingface.co/owner/name/raw/main/a%20b.json",
    "https://huggingface.co/owner/name/blame/main/a.json", "https://huggingface.co/owner/name/tree/feature%2Ffoo/sub",
    "https://huggingface.co/owner/name?library=peft", "https://huggingface.co/owner/name//tree//main",
    "https://huggingface.co/owner", "https://huggingface.co/gpt2", "https://huggingface.co/", "https://huggingface.co",
    "https://huggingface.co/owner/name/commit/main", "https://huggingface.co/owner/name/discussions/1",
    "https://huggingface.co/owner/name/settings", "https://huggingface.co/datasets/owner/name",
    "https://huggingface.co/spaces/owner/name/tree/main", "https://example.com/owner/name", "https://huggingface.co.example.com/a/b",
    "https://huggingface.co/a--b/c", "ftp://huggingface.co/owner/name", "https://github.com/owner/name/tree/main",
]

cases = []
for address in ADDRESSES:
    try:
        uri = parse_hf_uri(address)
        model = {"name": uri.id, "revision": uri.revision, "path": uri.path_in_repo} if uri.type == "model" else None
    except huggingface_hub.errors.HfUriError:
        model = None
    cases.append({"address": address, "model": model})
out = pathlib.Path(__file__).parent.parent / "hub" / "addresses.json"
out.write_text(json.dumps({"huggingface_hub": huggingface_hub.__version__, "cases": cases}, indent=1) + "\n")
