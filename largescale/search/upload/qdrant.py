"""Qdrant: a server, or its client's local mode in a folder."""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from qdrant_client import QdrantClient, models

from largescale.search.manifest import Metric
from largescale.settings import UserError

SPACE = uuid.UUID("6a1f3f0e-3b0b-5d0a-9f57-0f5a3c9b7a11")
"""Points are named by numbers or UUIDs only: that of a key follows from the key."""
EF_SEARCH = 128
PAGE = 10_000


class Qdrant:
    """A collection whose points have the payload `key, label, path, version`.

    Raises:
        UserError: no connection, or a collection of another kind.
    """

    def __init__(self, address: str, name: str, dim: int, metric: Metric) -> None:
        self.name, self.local = name, address.startswith("qdrant:")
        try:
            self.client = _client(address)
            wanted = models.VectorParams(size=dim, distance=models.Distance.DOT if metric == "cosine" else models.Distance.EUCLID)
            if not self.client.collection_exists(name):
                self.client.create_collection(name, vectors_config=wanted)
            found = self.client.get_collection(name).config.params.vectors
        except Exception as error:  # the client raises those of its transports
            raise UserError(f"to={_shown(address)}: no connection to Qdrant ({str(error).splitlines()[0]})") from None
        if not isinstance(found, models.VectorParams) or (found.size, found.distance) != (wanted.size, wanted.distance):
            raise UserError(
                f"the collection {name} holds other vectors than {dim} dimensions by {wanted.distance.value}: give another "
                "name=…, or delete it"
            )
        self.exact = True

    def versions(self, keys: Sequence[str]) -> dict[str, str]:
        points = self.client.retrieve(self.name, [point(key) for key in keys], with_payload=["key", "version"])
        return {found.payload["key"]: found.payload["version"] for found in points if found.payload}

    def put(self, rows: np.ndarray, table: pa.Table, versions: Sequence[str]) -> None:
        payloads = [row | {"version": version} for row, version in zip(table.to_pylist(), versions, strict=True)]
        points = models.Batch(ids=[point(payload["key"]) for payload in payloads], vectors=rows.tolist(), payloads=payloads)
        self.client.upsert(self.name, points, wait=True)

    def keys(self) -> Iterator[str]:
        offset: Any = None
        while True:
            points, offset = self.client.scroll(self.name, limit=PAGE, offset=offset, with_payload=["key"])
            yield from (found.payload["key"] for found in points if found.payload)
            if offset is None:
                return

    def delete(self, keys: Sequence[str]) -> None:
        self.client.delete(self.name, models.PointIdsList(points=[point(key) for key in keys]), wait=True)

    def build(self) -> str:
        if self.local:
            return "the local mode of Qdrant compares every row"
        self.exact = False  # a server makes its index by itself
        return f"HNSW of Qdrant, hnsw_ef = {EF_SEARCH}"

    def search(self, row: np.ndarray, count: int) -> list[str]:
        how = None  # of local mode, which warns of parameters
        if not self.local:
            how = models.SearchParams(exact=True) if self.exact else models.SearchParams(hnsw_ef=EF_SEARCH)
        answer = self.client.query_points(self.name, query=row.tolist(), limit=count, search_params=how, with_payload=["key"])
        return [found.payload["key"] for found in answer.points if found.payload]

    def close(self) -> None:
        self.client.close()


def point(key: str) -> str:
    return str(uuid.uuid5(SPACE, key))


def _client(address: str) -> QdrantClient:
    if address.startswith("qdrant:"):
        return QdrantClient(path=address.removeprefix("qdrant:"))
    place = urlsplit(address)
    host = f"{place.hostname}:{place.port or 6333}"
    return QdrantClient(url=f"{place.scheme}://{host}{place.path}", api_key=place.password, timeout=60)


def _shown(address: str) -> str:
    place = urlsplit(address)
    return address if not place.password else f"{place.scheme}://{place.hostname}"
