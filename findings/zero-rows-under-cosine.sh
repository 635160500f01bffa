#!/usr/bin/env bash
# A descriptor of zeros under cosine: orthogonal, absent, or the best of all, as the engine likes.
#
# Guess: a row of zeros has similarity 0 or is refused; sorted by similarity it comes last or among the orthogonal rows.
# Found: usearch gives distance 1, as for an orthogonal row. Lance leaves the row out of the results, whatever k: four rows, three
#   results. DuckDB gives NaN, which it sorts above all numbers: ORDER BY similarity DESC LIMIT 1 finds the row of zeros.
# Versions: usearch 2.26.6, pylance 14.0.2, duckdb 2.0.1, 2026-11-28.
# Output seen:
#   usearch 2.26.6 {0: 0.0, 2: 0.5, 1: 1.0, 3: 1.0}
#   pylance 14.0.2 {0: 0.0, 2: 0.5, 3: 1.0}
#   duckdb 2.0.1, most similar first [1, 0, 2, 3]
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" usearch==2.26.6 pylance==14.0.2 duckdb==2.0.1 numpy==2.4.6
PYTHONPATH=$packages python3 - "$packages" <<'PYTHON'
import sys
from importlib.metadata import version

import duckdb
import lance
import numpy as np
import pyarrow as pa
from usearch.index import Index

query = np.array([1, 0, 0, 0], np.float32)
rows = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], np.float32)

index = Index(ndim=4, metric="cos", dtype="f32")
index.add(np.arange(4), rows)
found = index.search(query, 4)
by_usearch = {int(key): round(float(x), 4) for key, x in sorted(zip(found.keys, found.distances), key=lambda pair: (pair[1], pair[0]))}
print("usearch", version("usearch"), by_usearch)

vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 4)
data = lance.write_dataset(pa.table({"id": range(4), "vector": vectors}), f"{sys.argv[1]}/rows.lance")
found = data.to_table(nearest={"column": "vector", "q": query, "k": 4, "metric": "cosine"})
by_lance = dict(zip(found["id"].to_pylist(), (round(x, 4) for x in found["_distance"].to_pylist())))
print("pylance", version("pylance"), by_lance)

table = duckdb.connect()
table.execute("CREATE TABLE t (id INTEGER, v FLOAT[4])")
table.executemany("INSERT INTO t VALUES (?, ?)", [(i, row.tolist()) for i, row in enumerate(rows)])
order = "SELECT id FROM t ORDER BY array_cosine_similarity(v, ?::FLOAT[4]) DESC"
by_duckdb = [id for (id,) in table.execute(order, [query.tolist()]).fetchall()]
print(f"duckdb {duckdb.__version__}, most similar first", by_duckdb)

assert by_usearch == {0: 0.0, 2: 0.5, 1: 1.0, 3: 1.0}
assert by_lance == {0: 0.0, 2: 0.5, 3: 1.0}
assert by_duckdb == [1, 0, 2, 3]
print("as stated")
PYTHON
