"""How many of the nearest rows engines find as they are, and how many rows they give at most: `python -m tests.search.recall`.

10,000 unit rows of 64 dimensions in 200 clusters, 200 queries; engines at their defaults. Absent engines are left out.
"""

import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version

import numpy as np

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


def given(search: Search, query: np.ndarray, k: int) -> str:
    """How many rows come for k, or what is said instead."""
    try:
        found = np.asarray(search(query, k))
    except Exception as error:  # each engine has its own
        return f"error: {str(error).splitlines()[0]:.60}"
    real = found[(found >= 0) & (found < ROWS)]
    return f"{len(np.unique(real)):,}" + (f" of {len(found):,} ids" if len(real) < len(found) else "")


def main() -> None:
    rows, queries = data()
    nearest = np.argsort(-queries @ rows.T, axis=1)[:, :NEAR]
    print(f"| engine at its defaults | recall at {NEAR} | rows for k = {MANY:,} | rows for k = {ROWS + 1:,} |")
    print("|---|---:|---:|---:|")
    for engine in (of_faiss, of_usearch, of_hnswlib, of_voyager, of_scann, of_lance, of_pgvector):
        try:
            kinds = engine(rows)
        except ImportError:
            continue
        for name, search in kinds.items():
            found = [np.isin(near, search(query, NEAR)).mean() for query, near in zip(queries, nearest, strict=True)]
            many, beyond = (given(search, queries[0], k) for k in (MANY, ROWS + 1))
            print(f"| {name} | {np.mean(found):.3f} | {many} | {beyond} |", flush=True)


if __name__ == "__main__":
    with OPEN:
        main()
