#!/usr/bin/env bash
# FAISS rounds to half precision half up, NumPy half to even.
#
# Guess: a descriptor in a half-precision FAISS index is the one that numpy.float16 gives.
# Found: values halfway between two half-precision numbers go up in FAISS's scalar quantizer: 1 + 2**-11 becomes 1.0009765625, NumPy makes 1.0.
#   Rows that were compared bit by bit, or whose ties matter, differ between an index and an array of the same type.
# Versions: faiss-cpu 1.15.1, numpy 2.4.6, 2026-11-28.
# Output seen:
#   faiss 1.15.1
#   1.00048828125 in half precision: FAISS 1.0009765625, NumPy 1.0
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" faiss-cpu==1.15.1 numpy==2.4.6
PYTHONPATH=$packages python3 - <<'PYTHON'
import faiss
import numpy as np

print("faiss", faiss.__version__)
rows = np.full((1, 4), 1 + 2**-11, np.float32)
index = faiss.IndexScalarQuantizer(4, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
index.add(rows)
theirs, ours = float(index.reconstruct(0)[0]), float(rows.astype(np.float16)[0, 0])
print(f"{rows[0, 0]} in half precision: FAISS {theirs}, NumPy {ours}")
assert (theirs, ours) == (1 + 2**-10, 1.0)
print("as stated")
PYTHON
