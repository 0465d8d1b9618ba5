"""python -m peft_tool: the command itself."""

import os
import sys

from ._run import binary

os.execv(binary(), ["peft-tool", *sys.argv[1:]])
