"""Several processes, kills, a full disk: nothing that was committed is lost, and nobody reads half of anything."""

import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest

from largescale.search.find import Options
from largescale.search.index import Index
from largescale.search.writer import writing
from largescale.settings import UserError
from tests.search.kills import kill_writers, make_index, processes
from tests.search.rows import DIM, keys, unit_rows


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing_that_was_committed(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    make_index(folder)
    counts = kill_writers(folder, 5, random.Random(0))
    assert counts["kills"] == 5
    assert counts["parts whole"] >= 5


def _hold(folder: Path, held: "multiprocessing.Queue[int]") -> None:
    with writing(folder):
        held.put(os.getpid())
        time.sleep(60)


@pytest.mark.slow
def test_two_writers_exclude_each_other_and_readers_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = Index.create(folder, DIM)
    index.add_rows(unit_rows(100), keys(100))
    held = processes.Queue()
    holder = processes.Process(target=_hold, args=(folder, held))
    holder.start()
    process = held.get(timeout=60)
    with pytest.raises(UserError, match=f"being changed by process {process} on "):
        Index.open(folder).add_rows(unit_rows(1), ["new"])
    assert Index.open(folder).search(key="00007", k=1)
    holder.kill()
    holder.join()
    index.add_rows(unit_rows(1), ["new"])
    with writing(folder), pytest.raises(UserError, match="being changed by process"):  # also within a process
        index.remove(["new"])


def _read(folder: Path, until: float, failures: "multiprocessing.Queue[str]") -> None:
    queries, reader = unit_rows(3, seed=99), Index.open(folder)
    try:
        while time.time() < until:
            for index in (Index.open(folder), reader.refresh()):
                hits = index.search_rows(queries, Options(k=5))
                assert all(len(found) == 5 for found in hits)
        failures.put("")
    except BaseException as error:
        failures.put(repr(error))


@pytest.mark.slow
def test_readers_beside_a_writer_see_whole_indexes(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = Index.create(folder, DIM)
    index.add_rows(unit_rows(200), keys(200))
    until, failures = time.time() + 2, processes.Queue()
    readers = [processes.Process(target=_read, args=(folder, until, failures)) for _ in range(2)]
    for reader in readers:
        reader.start()
    number = 0
    while time.time() < until:
        index.add_rows(unit_rows(30, seed=number), keys(30, f"{number} "))
        index.remove(keys(30, f"{number} ")[:15])
        number += 1
    assert [failures.get(timeout=30) for _ in readers] == ["", ""]
    for reader in readers:
        reader.join()


def _add_much(folder: Path, limit: int, answer: "multiprocessing.Queue[str]") -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Index.open(folder).add_rows(unit_rows(4000, seed=1), keys(4000, "more "))
        answer.put("added")
    except BaseException as error:
        answer.put(f"{type(error).__name__}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["exact", "IVF8,Flat"])
def test_a_full_disk_is_a_sentence_and_nothing_is_lost(tmp_path: Path, factory: str) -> None:
    folder, answer = tmp_path / "index", processes.Queue()
    index = Index.create(folder, DIM, factory=factory)
    index.add_rows(unit_rows(500), keys(500))
    for limit in (4000 * DIM * 2, 4000 * DIM * 4 + 20_000):  # in the middle of the rows; in what is written after them
        member = processes.Process(target=_add_much, args=(folder, limit, answer))
        member.start()
        message = answer.get(timeout=60)
        member.join()
        assert message.startswith("UserError: "), message
        assert "what was there is unchanged: make room" in message
        assert len(Index.open(folder)) == 500
    index.add_rows(unit_rows(4000, seed=1), keys(4000, "more "))
    assert len(Index.open(folder)) == 4500
    assert not list(folder.rglob("*.partial"))
