"""Rows and keys in vector databases: the same neighbors as the exact index, whatever interrupts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.search.config import UploadConfig
from largescale.search.index import Index
from largescale.search.upload import upload as module
from largescale.search.upload.upload import Target, connect, upload
from largescale.settings import UserError
from tests.search.database import database
from tests.search.rows import DIM, keys, unit_rows

COUNT = 300


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    pytest.importorskip("pgvector")
    with database() as address:
        yield address


@pytest.fixture(params=["postgres", "qdrant"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    pytest.importorskip("qdrant_client")
    return f"qdrant:{tmp_path / 'qdrant'}"


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "index", DIM)
    rows = unit_rows(COUNT)
    rows[100:103] = rows[7]  # ties
    index.add_rows(rows, keys(COUNT, "søk 検索/"), [None if i % 3 else f"label '{i % 7}'" for i in range(COUNT)])
    return index


def _config(index: Index, to: str, name: str, **values: Any) -> UploadConfig:
    return UploadConfig(index=index.folder, to=to, name=name, batch_size=100, check=16, **values)


@pytest.mark.slow
def test_the_database_finds_what_the_exact_index_finds(index: Index, address: str) -> None:
    done = upload(_config(index, address, "exact", approximate=False))
    assert (done.sent, done.unchanged, done.deleted, done.recall) == (COUNT, 0, 0, 1.0)
    again = upload(_config(index, address, "exact"))
    assert (again.sent, again.unchanged, again.deleted) == (0, COUNT, 0)
    assert again.recall is not None
    assert again.recall >= 0.95
    assert "% of the 20 nearest rows are found there (" in str(again)
    with_hits = connect(_config(index, address, "exact"), index.view)
    row = index.view.take(np.array([250]))[0]
    assert with_hits.search(row, 1) == ["søk 検索/00250"]
    with_hits.close()


@pytest.mark.slow
def test_an_interrupted_upload_is_completed_and_changes_are_followed(
    index: Index, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        upload(_config(index, address, "changing"))
    monkeypatch.undo()
    done = upload(_config(index, address, "changing"))
    assert (done.sent, done.unchanged) == (COUNT - 200, 200)
    index.remove(["søk 検索/00005", "søk 検索/00006"])
    index.add_rows(unit_rows(2, seed=9), ["søk 検索/00007", "new"])
    changed = upload(_config(index, address, "changing", approximate=False))
    assert (changed.sent, changed.unchanged, changed.deleted, changed.recall) == (2, COUNT - 3, 2, 1.0)


def _stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    real: Callable[..., Target] = module.connect

    def connected(*arguments: Any) -> Target:
        target = real(*arguments)
        put, left = target.put, iter(range(batches))

        def putting(*values: Any) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            put(*values)

        monkeypatch.setattr(target, "put", putting)
        return target

    monkeypatch.setattr(module, "connect", connected)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_an_index_that_was_emptied_empties_the_table(index: Index, address: str) -> None:
    upload(_config(index, address, "emptied"))
    index.remove(keys(COUNT, "søk 検索/"))
    done = upload(_config(index, address, "emptied"))
    assert (done.sent, done.deleted, done.recall) == (0, COUNT, None)


@pytest.mark.slow
def test_l2(tmp_path: Path, address: str) -> None:
    index = Index.create(tmp_path / "l2", DIM, "l2")
    index.add_rows(3 * unit_rows(200), keys(200))
    assert upload(_config(index, address, "of_l2", approximate=False)).recall == 1.0
    assert (upload(_config(index, address, "of_l2")).recall or 0) >= 0.95


@pytest.mark.slow
def test_a_table_of_another_kind_is_left_alone(index: Index, tmp_path: Path, address: str) -> None:
    upload(_config(index, address, "taken"))
    other = Index.create(tmp_path / "other", 8)
    other.add_rows(unit_rows(3, dim=8), keys(3))
    with pytest.raises(UserError, match="give another name=…"):
        upload(_config(other, address, "taken"))
    assert upload(_config(index, address, "taken")).unchanged == COUNT


@pytest.mark.slow
def test_no_database(index: Index) -> None:
    pytest.importorskip("pgvector")
    pytest.importorskip("qdrant_client")
    for to, message in (
        ("postgresql://me:hidden@127.0.0.1:1/photos", r"to=postgresql://127.0.0.1/photos: no connection"),
        ("http://127.0.0.1:1", "no connection to Qdrant"),
        ("mysql://me:hidden@127.0.0.1/photos", "to=mysql:… is no database that is known"),
    ):
        with pytest.raises(UserError, match=message) as error:
            upload(_config(index, to, "any"))
        assert "hidden" not in str(error.value)
