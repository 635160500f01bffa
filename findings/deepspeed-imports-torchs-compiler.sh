#!/usr/bin/env bash
# DeepSpeed with AdamW and without compilation imports torch's compiler at the start of every ZeRO optimizer.
#
# Guess: torch._dynamo is imported where a user asks for compilation (engine.compile()), and an optimizer of DeepSpeed where it is chosen.
# Found: each ZeRO stage asks whether the optimizer is Muon, and imports it for that. Its module decorates a function with DeepSpeed's
#   compile(), which takes torch.compile's path at import: torch._dynamo and what it needs follow, for seconds of each process's start.
# Versions: deepspeed 0.19.8, torch 2.14.1, 2026-11-29, x86-64, no GPU.
# Output seen:
#   before: False, after: True, 6.0 s
#   as stated 0.19.8
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -c 'from importlib.metadata import version as v; assert (v("deepspeed"), v("torch").split("+")[0]) == ("0.19.8", "2.14.1")' 2>/dev/null ||
  python3 -m pip install --quiet --target "$packages" torch==2.14.1 setuptools numpy deepspeed==0.19.8
PYTHONPATH=$packages DS_ACCELERATOR=cpu python3 - <<'PYTHON' 2>/dev/null
import contextlib
import inspect
import io
import sys
import time

with contextlib.redirect_stdout(io.StringIO()):
    import deepspeed
from deepspeed.runtime.zero import stage3, stage_1_and_2

before = "torch._dynamo" in sys.modules
assert all("import MuonWithAuxAdam" in inspect.getsource(stage) for stage in (stage_1_and_2, stage3))
began = time.process_time()
from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

after = "torch._dynamo" in sys.modules
print(f"before: {before}, after: {after}, {time.process_time() - began:.1f} s")
assert (before, after) == (False, True)
print("as stated", deepspeed.__version__)
PYTHON
