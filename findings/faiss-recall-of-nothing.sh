#!/usr/bin/env bash
# FAISS's own measure of recall counts missing neighbors as agreement.
#
# Guess: two searches without a common neighbor agree in 0 % of their results.
# Found: places without a neighbor hold id -1, and faiss.contrib.evaluation.knn_intersection_measure takes -1 for a neighbor that both
#   found: 1/k per query, so that at k = 1 a filtered search that finds nothing agrees fully with a truth that is empty too.
# Versions: faiss-cpu 1.15.1, numpy 2.4.6, 2026-11-28.
# Output seen:
#   faiss 1.15.1
#   [[0, -1, -1, -1]] and [[1, -1, -1, -1]]: measured 0.25
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" faiss-cpu==1.15.1 numpy==2.4.6
PYTHONPATH=$packages python3 - <<'PYTHON'
import faiss
import numpy as np
from faiss.contrib.evaluation import knn_intersection_measure

print("faiss", faiss.__version__)
query = np.eye(1, 4, dtype=np.float32)
results = []
for row in (0, 1):  # each index holds one row, and is asked for four
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    index.add_with_ids(query, np.array([row]))
    results.append(index.search(query, 4)[1])
measured = knn_intersection_measure(*results)
print(f"{results[0].tolist()} and {results[1].tolist()}: measured {measured}")
assert [x.tolist() for x in results] == [[[0, -1, -1, -1]], [[1, -1, -1, -1]]]
assert measured == 1 / 4
assert knn_intersection_measure(np.array([[-1]]), np.array([[-1]])) == 1
print("as stated")
PYTHON
