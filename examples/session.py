"""session.py BASE ADAPTER: the same from Python. `pip install` of the wheel gives the module and the command."""

import sys
import tempfile
from pathlib import Path

import peft_tool

base, adapter = sys.argv[1:]
about = peft_tool.inspect(adapter, base=base, stats=True)
print(about["peft_type"], "r =", about["r"], "fits" if about["base"]["compatible"] else about["base"]["reason"])

with tempfile.TemporaryDirectory() as work:
    merged, half = Path(work) / "merged", Path(work) / "half"
    answer = peft_tool.merge(base, adapter, merged, on_progress=lambda done, total: print(f"{done} of {total} bytes"))
    print(answer["matched"], "modules merged")
    assert peft_tool.verify(base, adapter, merged)["agree"]
    # A weight stands after the adapter's name.
    peft_tool.merge(base, f"{adapter}:0.5", half)
    assert not peft_tool.verify(base, adapter, half)["agree"]
    try:
        peft_tool.merge(base, adapter, merged)
    except peft_tool.Error as error:
        print("as it should be:", error)
