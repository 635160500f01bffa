#!/usr/bin/env bash
# safetensors.numpy.save_file writes other numbers than those of a transposed array.
#
# Guess: an array that is a view is saved by its values, or refused (as safetensors.torch refuses tensors that are not contiguous).
# Found: with a transposed or column-major array, the bytes of the memory below are written under the shape of the view: a file that is
#   read without an error and holds a permutation of the numbers. A projection saved as `basis.T` is silently another one.
#   numpy.ascontiguousarray before saving helps.
# Versions: safetensors 0.8.0, numpy 2.4.6, 2026-11-28.
# Output seen:
#   safetensors 0.8.0
#   saved [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], read [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" safetensors==0.8.0 numpy==2.4.6
PYTHONPATH=$packages python3 - "$packages" <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load_file, save_file

print("safetensors", version("safetensors"))
basis = np.arange(6, dtype=np.float32).reshape(2, 3)
file = f"{sys.argv[1]}/basis.safetensors"
for view in (np.asfortranarray(basis), basis.T):
    save_file({"basis": view}, file)
    read = load_file(file)["basis"]
    assert read.shape == view.shape
    assert not np.array_equal(read, view)
print(f"saved {view.tolist()}, read {read.tolist()}")
assert np.array_equal(read.ravel(), basis.ravel())
save_file({"basis": np.ascontiguousarray(view)}, file)
assert np.array_equal(load_file(file)["basis"], view)
print("as stated")
PYTHON
