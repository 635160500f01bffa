#!/usr/bin/env bash
# usearch: the inner product of an int8 index is cosine, in other units.
#
# Guess: with metric "ip", dtype "i8" is a coarser version of dtype "f32": the same order up to rounding, distances near 1 - inner product.
# Found: each row is scaled to length 127 on its way into bytes, so the lengths are lost: a row of three times the inner product comes
#   second, and the distance is 1 minus a product of bytes (-16128 for any row against itself).
# Versions: usearch 2.26.6, numpy 2.4.6, 2026-11-28.
# Output seen:
#   usearch 2.26.6
#   f32 {1: -1.4, 0: 0.2}
#   i8 {0: -16128.0, 1: -14858.0}
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" usearch==2.26.6 numpy==2.4.6
PYTHONPATH=$packages python3 - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from usearch.index import Index

print("usearch", version("usearch"))
query = np.array([1, 0, 0, 0], np.float32)
rows = np.array([[0.8, 0, 0, 0], [2.4, 1, 0, 0]], np.float32)  # inner products 0.8 and 2.4
found = {}
for dtype in ("f32", "i8"):
    index = Index(ndim=4, metric="ip", dtype=dtype)
    index.add(np.arange(2), rows)
    matches = index.search(query, 2)
    found[dtype] = dict(zip(matches.keys.tolist(), (round(float(x), 4) for x in matches.distances)))
    print(dtype, found[dtype])
assert list(found["f32"]) == [1, 0]
assert list(found["i8"]) == [0, 1]
assert found["i8"][0] == 1 - 127**2
print("as stated")
PYTHON
