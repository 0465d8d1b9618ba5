"""Runs the binary: words out, a dictionary or an exception back."""

import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import threading
from pathlib import Path

_log = logging.getLogger("peft_tool")
_PREFIX = "peft-tool: "


class Error(Exception):
    """A command failed, or was used wrongly.

    str() is the command's own sentence; `command` the words that were run; `code` the exit code, negative for a signal.
    """

    def __init__(self, message, command, code):
        super().__init__(message)
        self.command = command
        self.code = code


def version():
    """The version of the package, which is the binary's too."""
    return importlib.metadata.version("peft-tool")


def binary():
    """The path of the binary that this package installed; else the one in PATH.

    Raises FileNotFoundError.
    """
    try:
        for file in importlib.metadata.files("peft-tool") or []:
            if file.name == "peft-tool" and file.parent.name == "bin" and Path(file.locate()).is_file():
                return os.path.abspath(file.locate())
    except importlib.metadata.PackageNotFoundError:
        pass
    # `pip install --target` puts commands beside the packages, and does not say so.
    beside = Path(__file__).resolve().parent.parent / "bin" / "peft-tool"
    found = str(beside) if beside.is_file() else shutil.which("peft-tool")
    if found is None:
        raise FileNotFoundError("no peft-tool beside this package or in PATH; install the wheel again")
    return found


def _words(options):
    """Options as words: True is a switch; None and False are left out; a list repeats the option."""
    words = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is True:
                words.append(flag)
            elif item is not None and item is not False:
                words.append(f"{flag}={os.fspath(item) if isinstance(item, os.PathLike) else item}")
    return words


def run(command, *operands, on_progress=None, **options):
    """Runs a command with --json and returns its answer.

    One document is returned as it is, several (`generate` with prompts=FILE) as a list. An answer that is no (`verify`,
    `diff`, `validate`, `inspect` with for) is an answer. `on_progress(done, total)` is called with bytes while a model is
    written or downloaded. Notes go to the logger "peft_tool". Raises Error. An exception while the command runs, such as
    KeyboardInterrupt, ends the command, which then removes what it has written.
    """
    words = [binary(), command, "--json", *_words(options)]
    if on_progress is not None:
        words.append("--progress=json")
    words += ["--", *(os.fspath(operand) for operand in operands)]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        errors="replace")
    output = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read()), daemon=True)
    reader.start()
    failures = []
    try:
        for line in process.stderr:
            _hear(line.rstrip("\n"), on_progress, failures)
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        reader.join()
        process.stdout.close()
        process.stderr.close()
    if code not in (0, 1):
        message = "\n".join(failures) or f"peft-tool {command} ended with code {code}"
        raise Error(message, words[1:], code)
    documents = [json.loads(line) for line in output[0].splitlines() if line]
    return documents[0] if len(documents) == 1 else documents


def _hear(line, on_progress, failures):
    if line.startswith(_PREFIX):
        failures.append(line[len(_PREFIX):])
        return
    if on_progress is not None and line.startswith('{"progress":'):
        progress = json.loads(line)["progress"]
        on_progress(progress["done"], progress["total"])
    elif line:
        _log.info("%s", line)
