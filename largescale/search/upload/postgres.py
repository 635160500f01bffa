"""PostgreSQL with the extension pgvector."""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pyarrow as pa
from pgvector.psycopg import register_vector
from psycopg import sql

from largescale.search.manifest import Metric
from largescale.settings import UserError

MOST, MOST_HALF = 2000, 4000
"""Dimensions of an HNSW index of pgvector, and of one in half precision."""
EF_SEARCH = 100


class Postgres:
    """A table `key, label, path, version, embedding`.

    Raises:
        UserError: no connection, no pgvector, or a table of another kind.
    """

    def __init__(self, address: str, name: str, dim: int, metric: Metric) -> None:
        self.name, self.dim, self.metric = sql.Identifier(name), dim, metric
        self.index = sql.Identifier(f"{name}_embedding")
        place = urlsplit(address)
        try:
            self.connection = psycopg.connect(address, autocommit=True)
        except (psycopg.Error, ValueError) as error:
            text = str(error).replace(place.password or "\0", "…")
            raise UserError(
                f"to=postgresql://{place.hostname or ''}{place.path}: no connection ({text.splitlines()[0]})"
            ) from None
        try:
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            raise UserError(
                f"the database has no pgvector, and it cannot be made ({str(error).splitlines()[0]}): install it on the server"
            ) from None
        register_vector(self.connection)
        self._run(
            'CREATE TABLE IF NOT EXISTS {name} (key text COLLATE "C" PRIMARY KEY, label text, path text, version text NOT NULL, '
            "embedding vector({dim}) NOT NULL)"
        )
        self._check(name)

    def versions(self, keys: Sequence[str]) -> dict[str, str]:
        return dict(self._run("SELECT key, version FROM {name} WHERE key = ANY(%s)", [list(keys)]))

    def put(self, rows: np.ndarray, table: pa.Table, versions: Sequence[str]) -> None:
        columns = [table[name].to_pylist() for name in ("key", "label", "path")]
        values = list(zip(*columns, versions, rows, strict=True))
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(
                self._query(
                    "INSERT INTO {name} VALUES (%s, %s, %s, %s, %s) ON CONFLICT (key) DO UPDATE SET label = EXCLUDED.label, "
                    "path = EXCLUDED.path, version = EXCLUDED.version, embedding = EXCLUDED.embedding"
                ),
                values,
            )

    def keys(self) -> Iterator[str]:
        return (key for (key,) in self._run("SELECT key FROM {name}"))

    def delete(self, keys: Sequence[str]) -> None:
        self._run("DELETE FROM {name} WHERE key = ANY(%s)", [list(keys)])

    def build(self) -> str:
        if self.dim > MOST_HALF:
            return f"every row is compared: pgvector has no index for more than {MOST_HALF} dimensions"
        kind, half = "vector", self.dim > MOST
        column: sql.Composable = sql.SQL("embedding")
        if half:
            kind, column = "halfvec", sql.SQL("(embedding::halfvec({}))").format(sql.Literal(self.dim))
        operators = sql.SQL(f"{kind}_{'ip' if self.metric == 'cosine' else 'l2'}_ops")
        self._run(
            "CREATE INDEX IF NOT EXISTS {index} ON {name} USING hnsw (({column}) {operators})", column=column, operators=operators
        )
        self._run("ANALYZE {name}")
        self._run(f"SET hnsw.ef_search = {EF_SEARCH}")
        return f"HNSW of pgvector{' in half precision' if half else ''}, hnsw.ef_search = {EF_SEARCH}"

    def search(self, row: np.ndarray, count: int) -> list[str]:
        operator = sql.SQL("<#>" if self.metric == "cosine" else "<->")
        cast = sql.SQL("::halfvec({})").format(sql.Literal(self.dim)) if MOST < self.dim <= MOST_HALF else sql.SQL("")
        text = "SELECT key FROM {name} ORDER BY embedding{cast} {operator} %s{cast} LIMIT %s"
        return [key for (key,) in self._run(text, [row, count], operator=operator, cast=cast)]

    def close(self) -> None:
        self.connection.close()

    def _check(self, name: str) -> None:
        found = self._run(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'embedding'",
            [f'"{name}"'],
        )
        columns = self._run("SELECT count(*) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", [f'"{name}"'])
        if found != [(f"vector({self.dim})",)] or columns != [(5,)]:
            was = found[0][0] if found else "no embedding"
            raise UserError(
                f"the table {name} holds {was}, and this index vector({self.dim}): give another name=…, or drop the table"
            )

    def _query(self, text: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(name=self.name, index=self.index, dim=sql.Literal(self.dim), **parts)  # type: ignore[arg-type]

    def _run(self, text: str, values: Sequence[Any] | None = None, **parts: sql.Composable) -> list[Any]:
        cursor = self.connection.execute(self._query(text, **parts), values)
        return cursor.fetchall() if cursor.description else []
