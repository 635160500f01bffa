#!/usr/bin/env bash
# voyager: under cosine, get_vector gives another row than was added.
#
# Guess: a getter returns what was put in (usearch's does, under the same metric).
# Found: under Space.Cosine voyager normalizes rows as they enter, and get_vector returns the normalized ones: lengths cannot be had back,
#   and rows moved by it to an inner-product engine rank differently there. Under Space.InnerProduct rows come back as they were.
# Versions: voyager 2.2.3, usearch 2.26.6, 2026-11-28.
# Output seen:
#   voyager 2.2.3, usearch 2.26.6
#   added [3.0, 4.0], voyager Cosine [0.6, 0.8], InnerProduct [3.0, 4.0], usearch cos [3.0, 4.0]
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" voyager==2.2.3 usearch==2.26.6 numpy==2.4.6
PYTHONPATH=$packages python3 - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import usearch.index
import voyager

print(f"voyager {version('voyager')}, usearch {version('usearch')}")
row = np.array([3, 4], np.float32)
back = {}
for space in (voyager.Space.Cosine, voyager.Space.InnerProduct):
    index = voyager.Index(space, num_dimensions=2)
    index.add_item(row)
    back[space.name] = [round(float(x), 4) for x in index.get_vector(0)]
other = usearch.index.Index(ndim=2, metric="cos", dtype="f32")
other.add(0, row)
back["usearch"] = [float(x) for x in np.ravel(other.get(0))]
print(f"added {row.tolist()}, voyager Cosine {back['Cosine']}, InnerProduct {back['InnerProduct']}, usearch cos {back['usearch']}")
assert back == {"Cosine": [0.6, 0.8], "InnerProduct": [3.0, 4.0], "usearch": [3.0, 4.0]}
print("as stated")
PYTHON
