"""How many of the nearest rows engines find as they are, and how many rows they give at most.

`python -m tests.benchmarks.bench_recall`. 10,000 unit rows of 64 dimensions in 200 clusters, 200 queries; engines at their
defaults, against all the nearest rows and all that were asked for; an error is no rows. Absent engines are left out.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version

import numpy as np
import pytest

from tests.benchmarks.table import Row, report

warnings.simplefilter("ignore")
ROWS, QUERIES, DIM, CLUSTERS, NEAR, MANY = 10_000, 200, 64, 200, 10, 1000
OPEN = ExitStack()
"""What lasts until the program ends."""
Search = Callable[[np.ndarray, int], np.ndarray]
"""A query and k -> ids."""


def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    centers = random.normal(size=(CLUSTERS, DIM))
    points = centers[random.integers(0, CLUSTERS, ROWS + QUERIES)] + random.normal(scale=0.7, size=(ROWS + QUERIES, DIM))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return points[:ROWS], points[ROWS:]


def of_faiss(rows: np.ndarray) -> dict[str, Search]:
    import faiss

    inner = faiss.METRIC_INNER_PRODUCT
    flat, graph = faiss.IndexFlatIP(DIM), faiss.IndexHNSWFlat(DIM, 32, inner)
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, 100, inner)
    lists.train(rows)
    kinds = {"flat": flat, "HNSW, 32 links": graph, "IVF, 100 lists": lists}
    for index in kinds.values():
        index.add(rows)
    return {
        f"FAISS {version('faiss-gpu')}, {name}": lambda query, k, index=index: index.search(query[None], k)[1][0]
        for name, index in kinds.items()
    }


def of_usearch(rows: np.ndarray) -> dict[str, Search]:
    from usearch.index import Index

    index = Index(ndim=DIM, metric="ip", dtype="f32")
    index.add(np.arange(len(rows)), rows)
    return {f"usearch {version('usearch')}": lambda query, k: index.search(query, k).keys}


def of_hnswlib(rows: np.ndarray) -> dict[str, Search]:
    import hnswlib

    index = hnswlib.Index("ip", DIM)
    index.init_index(len(rows))
    index.add_items(rows)
    return {f"hnswlib {version('hnswlib')}": lambda query, k: index.knn_query(query, k)[0][0]}


def of_voyager(rows: np.ndarray) -> dict[str, Search]:
    from voyager import Index, Space

    index = Index(Space.InnerProduct, num_dimensions=DIM)
    index.add_items(rows)
    return {f"voyager {version('voyager')}": lambda query, k: index.query(query, k=k)[0]}


def of_scann(rows: np.ndarray) -> dict[str, Search]:
    import scann

    index = scann.scann_ops_pybind.builder(rows, NEAR, "dot_product").autopilot().build()
    return {f"ScaNN {version('scann')}, autopilot": lambda query, k: index.search(query, final_num_neighbors=k)[0]}


def of_lance(rows: np.ndarray) -> dict[str, Search]:
    import lance
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM)
    table = lance.write_dataset(pa.table({"id": range(len(rows)), "vector": vectors}), tempfile.mkdtemp())
    table.create_index("vector", "IVF_PQ", metric="dot", num_partitions=100, num_sub_vectors=16)
    return {
        f"Lance {version('pylance')}, IVF_PQ, 100 lists": lambda query, k: table.to_table(
            columns=["id", "_distance"], nearest={"column": "vector", "q": query, "k": k, "metric": "dot"}
        )["id"].to_numpy()
    }


def of_pgvector(rows: np.ndarray) -> dict[str, Search]:
    import psycopg
    from pgvector.psycopg import register_vector

    from tests.search.database import database

    address = OPEN.enter_context(database())
    link = psycopg.connect(address, autocommit=True)
    link.execute("CREATE EXTENSION vector")
    register_vector(link)
    link.execute(f"CREATE TABLE t (id int, v vector({DIM}))")
    with link.cursor().copy("COPY t FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "vector"])
        for id, row in enumerate(rows):
            copy.write_row([id, row])
    link.execute("CREATE INDEX ON t USING hnsw (v vector_ip_ops)")
    link.execute("SET enable_seqscan = off")
    ask = "SELECT id FROM t ORDER BY v <#> %s LIMIT %s"
    return {"pgvector, HNSW": lambda query, k: np.array(link.execute(ask, [query, k]).fetchall()).ravel()}


def given(search: Search, query: np.ndarray, k: int) -> int:
    """How many rows come for k; none where that is an error."""
    try:
        found = np.asarray(search(query, k))
    except Exception:  # each engine has its own
        return 0
    return len(np.unique(found[(found >= 0) & (found < ROWS)]))


def measured() -> Iterator[Row]:
    rows, queries = data()
    nearest = np.argsort(-queries @ rows.T, axis=1)[:, :NEAR]
    for engine, least in ENGINES.items():
        try:
            kinds = engine(rows)
        except (ImportError, pytest.skip.Exception):
            continue
        for (name, search), goals in zip(kinds.items(), least, strict=True):
            found = [np.isin(near, search(query, NEAR)).mean() for query, near in zip(queries, nearest, strict=True)]
            yield Row(f"recall at {NEAR}: {name}", float(np.mean(found)), 1, goals[0])
            for k, goal in zip((MANY, ROWS + 1), goals[1:], strict=True):
                yield Row(f"rows for k = {k:,}: {name}", given(search, queries[0], k), min(k, ROWS), goal)


ENGINES: dict[Callable[[np.ndarray], dict[str, Search]], list[tuple[float, float, float]]] = {
    of_faiss: [(1, 1, 1), (0.99, 0.3, 0.03), (0.98, 0.1, 0.01)],
    of_usearch: [(0.99, 1, 0.99)],
    of_hnswlib: [(0.95, 1, 0)],
    of_voyager: [(0.95, 1, 0)],
    of_scann: [(0.99, 1, 1)],
    of_lance: [(0.6, 1, 1)],
    of_pgvector: [(0.99, 0.04, 0.004)],
}
"""For each of an engine's kinds, the least share that was seen of: the nearest rows, `MANY` rows, all rows."""

if __name__ == "__main__":
    with OPEN:
        sys.exit(not report(measured()))
