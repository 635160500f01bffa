#!/usr/bin/env bash
# FAISS: which of several equal rows is found depends on the metric, and on whether the index is in shards.
#
# Guess: on unit rows, inner product and L2 give the same neighbors, and IndexShards gives those of one index over the same rows.
# Found: where more rows tie than are asked for, a flat index finds the first rows under L2 and the last of the first k under inner
#   product in falling order; IndexShards finds rows of another shard, not the same rows in another order. Near-duplicates with
#   equal descriptors make recall and mined negatives depend on the layout of the index.
# Versions: faiss-cpu 1.15.1, numpy 2.4.6, 2026-11-28.
# Output seen:
#   faiss 1.15.1
#   8 equal rows, k = 3: L2 [0, 1, 2], inner product [2, 1, 0], inner product over two shards [6, 5, 4]
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" faiss-cpu==1.15.1 numpy==2.4.6
PYTHONPATH=$packages python3 - <<'PYTHON'
import faiss
import numpy as np

print("faiss", faiss.__version__)
query = np.eye(1, 4, dtype=np.float32)
rows = np.repeat(query, 8, axis=0)
shards = faiss.IndexShards(4, False, True)
parts = [faiss.IndexFlatIP(4), faiss.IndexFlatIP(4)]
for part in parts:
    shards.add_shard(part)
found = {}
for name, index in {"L2": faiss.IndexFlatL2(4), "inner product": faiss.IndexFlatIP(4), "two shards": shards}.items():
    index.add(rows)
    found[name] = index.search(query, 3)[1][0].tolist()
print(
    f"8 equal rows, k = 3: L2 {found['L2']}, inner product {found['inner product']}, "
    f"inner product over two shards {found['two shards']}"
)
assert found["L2"] == [0, 1, 2]
assert found["inner product"] == [2, 1, 0]
assert found["two shards"] == [6, 5, 4]
print("as stated")
PYTHON
