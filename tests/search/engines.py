"""What vector engines make of odd rows, a line per fact: `python -m tests.search.engines`. Absent engines are left out."""

import tempfile
import warnings
from importlib.metadata import version

import numpy as np

warnings.simplefilter("ignore")
rows = np.eye(4, 8, dtype=np.float32)
rows[1] = 0
rows[2] = [0.5, 0.5, 0, 0, 0, 0, 0, 0]
query = np.eye(1, 8, dtype=np.float32)[0]


def say(engine: str, package: str, fact: str, value: object) -> None:
    print(f"{engine} {version(package)} | {fact} | {value}", flush=True)


def pairs(ids: np.ndarray, distances: np.ndarray) -> dict[int, float]:
    return dict(zip(ids.tolist(), np.round(distances, 4).tolist(), strict=True))


def of_faiss() -> None:
    import faiss

    index = faiss.IndexFlatIP(8)
    index.add(rows)
    scores, ids = index.search(query[None], 6)
    say("FAISS", "faiss-gpu", "inner product is", f"a similarity: {scores[0, :3].tolist()}")
    say("FAISS", "faiss-gpu", "k beyond the rows", f"ids {ids[0].tolist()}, scores end in {scores[0, -1]:.3g}")
    named = faiss.IndexIDMap2(faiss.IndexFlatIP(8))
    named.add_with_ids(rows, np.array([-1, 5, 6, 7]))
    say(
        "FAISS",
        "faiss-gpu",
        "a row with id -1",
        f"ntotal {named.ntotal}, search finds {named.search(query[None], 2)[1][0].tolist()}",
    )
    say("FAISS", "faiss-gpu", "a NaN query", f"ids {index.search(np.full((1, 8), np.nan, np.float32), 2)[1][0].tolist()}")
    same = faiss.IndexFlatIP(8)
    same.add(np.repeat(query[None], 5, 0))
    say("FAISS", "faiss-gpu", "5 equal rows, k = 3", f"ids {same.search(query[None], 3)[1][0].tolist()}")
    half = faiss.IndexScalarQuantizer(4, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    value = np.float32(1 + 2**-11)
    half.add(np.full((1, 4), value, np.float32))
    say("FAISS", "faiss-gpu", "1 + 2^-11 in half precision (NumPy: 1.0)", half.reconstruct(0)[0])


def of_usearch() -> None:
    from usearch.index import Index

    for metric in ("ip", "cos"):
        index = Index(ndim=8, metric=metric, dtype="f32")
        index.add(np.arange(4), rows)
        found = index.search(query, 4)
        say(
            "usearch",
            "usearch",
            f"{metric}: distances",
            pairs(found.keys, found.distances),
        )
    small = Index(ndim=8, metric="ip", dtype="i8")
    small.add(np.arange(4), rows)
    found = small.search(query, 4)
    say(
        "usearch",
        "usearch",
        "ip in int8: distances",
        pairs(found.keys, found.distances),
    )


def of_voyager() -> None:
    from voyager import Index, Space

    for space in (Space.InnerProduct, Space.Cosine):
        index = Index(space, num_dimensions=8)
        index.add_items(2 * rows)
        ids, distances = index.query(query, k=4)
        say(
            "voyager",
            "voyager",
            f"{space.name}: distances",
            pairs(ids, distances),
        )
        say(
            "voyager",
            "voyager",
            f"{space.name}: the row (1, 1, 0, ...) is given back as",
            index.get_vector(2)[:2].round(4).tolist(),
        )


def of_lance() -> None:
    import lance
    import pyarrow as pa

    with tempfile.TemporaryDirectory() as folder:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 8)
        data = lance.write_dataset(pa.table({"id": range(4), "vector": vectors}), folder)
        for metric in ("dot", "cosine"):
            found = data.to_table(nearest={"column": "vector", "q": query, "k": 4, "metric": metric})
            values = dict(zip(found["id"].to_pylist(), [round(x, 4) for x in found["_distance"].to_pylist()], strict=True))
            say("Lance", "pylance", f"{metric}: distances", values)


def of_qdrant() -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    for distance in (models.Distance.DOT, models.Distance.COSINE):
        client.create_collection(distance.value, vectors_config=models.VectorParams(size=8, distance=distance))
        client.upsert(distance.value, models.Batch(ids=list(range(4)), vectors=(2 * rows).tolist()))
        found = client.query_points(distance.value, query=query.tolist(), limit=4).points
        say("Qdrant (local)", "qdrant-client", f"{distance.value}: scores", {p.id: round(p.score, 4) for p in found})
        back = client.retrieve(distance.value, [2], with_vectors=True)[0].vector
        say(
            "Qdrant (local)",
            "qdrant-client",
            f"{distance.value}: the row (1, 1, 0, ...) is given back as",
            [round(x, 4) for x in back[:2]],
        )


def of_pgvector() -> None:
    import psycopg
    from pgvector.psycopg import register_vector

    from tests.search.database import database

    with database() as address, psycopg.connect(address, autocommit=True) as link:
        link.execute("CREATE EXTENSION vector")
        register_vector(link)
        number = link.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()[0]
        link.execute("CREATE TABLE t (id int, v vector(8))")
        for id, row in enumerate(rows):
            link.execute("INSERT INTO t VALUES (%s, %s)", [id, row])
        for name, operator in (("inner product", "<#>"), ("cosine", "<=>")):
            found = link.execute(f"SELECT id, v {operator} %s FROM t ORDER BY 2", [query]).fetchall()
            print(f"pgvector {number} | {name}: distances | {dict(found)}")
        for kind, operators in (("hnsw", "vector_cosine_ops"), ("ivfflat", "vector_cosine_ops")):
            link.execute(f"CREATE INDEX i ON t USING {kind} (v {operators})")
            link.execute("SET enable_seqscan = off")
            found = link.execute("SELECT id FROM t ORDER BY v <=> %s LIMIT 4", [query]).fetchall()
            print(f"pgvector {number} | cosine by {kind}: rows found | {[x for (x,) in found]}")
            link.execute("DROP INDEX i")
        for dim in (2000, 2001):
            link.execute(f"CREATE TABLE d{dim} (v vector({dim}))")
            try:
                link.execute(f"CREATE INDEX ON d{dim} USING hnsw (v vector_ip_ops)")
                print(f"pgvector {number} | HNSW of {dim} dimensions | made")
            except psycopg.Error as error:
                print(f"pgvector {number} | HNSW of {dim} dimensions | {str(error).splitlines()[0]}")
        value = link.execute("SELECT '[1.00048828125]'::vector::halfvec::vector").fetchone()[0]
        print(f"pgvector {number} | 1 + 2^-11 in half precision | {value.to_list()[0]}")
        try:
            link.execute("INSERT INTO t VALUES (9, %s)", [np.full(8, np.nan, np.float32)])
        except psycopg.Error as error:
            print(f"pgvector {number} | a NaN row | {str(error).splitlines()[0]}")


def of_hnswlib() -> None:
    import hnswlib

    for space in ("ip", "cosine"):
        index = hnswlib.Index(space, 8)
        index.init_index(max_elements=4)
        index.add_items(rows, np.arange(4))
        ids, distances = index.knn_query(query, 4)
        say("hnswlib", "hnswlib", f"{space}: distances", pairs(ids[0], distances[0]))
        index.add_items(3 * rows[:1], [0])
        stored = np.round(np.array(index.get_items([0])[0]), 3).tolist()
        say("hnswlib", "hnswlib", f"{space}: 3 times the first row, added and asked for", stored)


def of_scann() -> None:
    import scann

    for metric in ("dot_product", "squared_l2"):
        index = scann.scann_ops_pybind.builder(rows, 4, metric).score_brute_force().build()
        say("ScaNN", "scann", f"{metric}, of 4 rows for k = 6", pairs(*index.search(query, final_num_neighbors=6)))
    index = scann.scann_ops_pybind.builder(rows, 4, "dot_product").score_brute_force(quantize=True).build()
    say("ScaNN", "scann", "dot_product in bytes", pairs(*index.search(query, final_num_neighbors=4)))
    same = scann.scann_ops_pybind.builder(np.repeat(query[None], 8, 0), 3, "dot_product").score_brute_force().build()
    say("ScaNN", "scann", "of 8 equal rows, k = 3", f"ids {same.search(query)[0].tolist()}")
    try:
        scann.scann_ops_pybind.builder(rows, 4, "cosine").score_brute_force().build()
    except ValueError as error:
        say("ScaNN", "scann", "cosine", error)


if __name__ == "__main__":
    for part in (of_faiss, of_usearch, of_voyager, of_hnswlib, of_scann, of_lance, of_qdrant, of_pgvector):
        try:
            part()
        except ModuleNotFoundError as error:
            print(f"{error.name} is not installed")
