"""Caches as huggingface_hub fills them, from a hub on this machine. Writes Fixtures/hub/caches.json.

Each cache is a table from paths to links, texts, or files of Fixtures/merge/llama-sharded/base.
"""

import hashlib
import http.server
import json
import os
import pathlib
import tempfile
import threading
import urllib.parse

FIXTURES = pathlib.Path(__file__).resolve().parent.parent
BASE = FIXTURES / "merge" / "llama-sharded" / "base"
COMMIT = "ab" * 20
FILES = {path.name: path.read_bytes() for path in sorted(BASE.iterdir())}
FILES["README.md"] = b"# tiny\n"


def git_digest(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def large(name):
    return name.endswith(".safetensors")


class Handler(http.server.BaseHTTPRequestHandler):
    missing = None

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = urllib.parse.urlparse(self.path).path
        if "/tree/" in path:
            entries = []
            for name, body in FILES.items():
                entry = {"type": "file", "path": name, "size": len(body), "oid": git_digest(body)}
                if large(name):
                    entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
                entries.append(entry)
            return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
        if path.startswith("/api/"):
            answer = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")
        name = path.rsplit("/", 1)[1]
        if name == Handler.missing or name not in FILES:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        body = FILES[name]
        headers = {"ETag": f'"{git_digest(body)}"', "X_Repo_Commit": COMMIT}
        if large(name):
            headers["X_Linked_ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            headers["X_Linked_Size"] = str(len(body))
        return self.answer(200, body, **headers)

    do_HEAD = do_GET


def table(cache):
    entries = {}
    for path in sorted(pathlib.Path(cache).rglob("*")):
        name = str(path.relative_to(cache))
        if path.is_symlink():
            entries[name] = {"link": os.readlink(path)}
        elif path.is_file():
            body = path.read_bytes()
            source = next((name for name, content in FILES.items() if content == body and name != "README.md"), None)
            entries[name] = {"file": source} if source else {"text": body.decode()}
    return entries


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(
        HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    import huggingface_hub

    def snapshot(cache, **arguments):
        huggingface_hub.snapshot_download("owner/tiny", cache_dir=cache, max_workers=1, **arguments)

    def files(cache, names):
        for name in names:
            huggingface_hub.hf_hub_download("owner/tiny", name, cache_dir=cache)

    def cut(cache, name):
        Handler.missing = name
        try:
            snapshot(cache)
        except huggingface_hub.errors.EntryNotFoundError:
            pass
        Handler.missing = None

    weights = [name for name in FILES if large(name)]
    makers = {
        "whole": lambda cache: snapshot(cache),
        "commit": lambda cache: snapshot(cache, revision=COMMIT),
        # As transformers asks for a sharded model, which names what it needs.
        "needed": lambda cache: snapshot(cache, allow_patterns=weights + ["config.json", "model.safetensors.index.json"]),
        "files": lambda cache: files(cache, ["config.json", "model.safetensors.index.json"] + weights),
        "configuration": lambda cache: files(cache, ["config.json"]),
        "shard": lambda cache: files(cache, ["config.json", weights[0]]),
        "cut-shard": lambda cache: cut(cache, weights[1]),
        "cut-index": lambda cache: cut(cache, "model.safetensors.index.json"),
    }
    caches = {}
    for name, make in makers.items():
        with tempfile.TemporaryDirectory() as cache:
            make(cache)
            caches[name] = table(cache)
    output = FIXTURES / "hub"
    output.mkdir(exist_ok=True)
    document = {"huggingface_hub": huggingface_hub.__version__, "caches": caches}
    (output / "caches.json").write_text(json.dumps(document, indent=1) + "\n")


main()
