#!/usr/bin/env bash
# Tensors that safetensors.torch.load_file has returned change when the file is written over in place.
#
# Guess: load_file, unlike safe_open, reads: what it returns belongs to the program, whatever becomes of the file (as with torch.load).
# Found: on a CPU both return private maps of the file. Pages that the program has not written itself follow the file, so that weights that
#   are copied over with `cp` or `rsync --inplace` become those of a program that is running, without a reload and without an error: a
#   whitening or a table of anchors, which nothing copies into a module. A clone() after loading, or a rename in place of the copy, helps.
# Versions: safetensors 0.8.0, torch 2.14.1, 2026-11-30, Linux x86-64.
# Output seen:
#   loaded 0.0, after another file was copied over it 1.0; of a clone 0.0
#   as stated 0.8.0
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -c 'from importlib.metadata import version as v; assert (v("safetensors"), v("torch").split("+")[0]) == ("0.8.0", "2.14.1")' 2>/dev/null ||
  python3 -m pip install --quiet --target "$packages" torch==2.14.1 numpy safetensors==0.8.0
cd "$packages"
PYTHONPATH=$packages python3 - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

save_file({"x": torch.zeros(1000)}, "model.safetensors")
save_file({"x": torch.ones(1000)}, "other.safetensors")
loaded = load_file("model.safetensors")["x"]
cloned = loaded.clone()
with open("model.safetensors", "r+b") as file:  # of the same length
    file.write(Path("other.safetensors").read_bytes())
print(f"loaded 0.0, after another file was copied over it {loaded.mean().item()}; of a clone {cloned.mean().item()}")
assert (loaded.mean().item(), cloned.mean().item()) == (1.0, 0.0)
print("as stated", version("safetensors"))
PYTHON
