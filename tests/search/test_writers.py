"""Several processes, kills, a full disk: nothing that was committed is lost, and nobody reads half of anything."""

import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from largescale.search.find import Options
from largescale.search.index import Index
from largescale.search.writer import writing
from largescale.settings import UserError
from tests.search.rows import DIM, keys, unit_rows
from tests.world import PRELOAD

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(PRELOAD)
PART = 40


def _add_forever(folder: Path, done: "multiprocessing.Queue[int]") -> None:
    index = Index.open(folder)
    for number in range(len(index) // PART, 1000):
        index.add_rows(unit_rows(PART, seed=number), keys(PART, f"{number} "))
        if number % 3 == 2:
            index.remove([f"{number - 1} 00001"])
            index.add_rows(unit_rows(PART, seed=number - 1)[1:2], [f"{number - 1} 00001"])
        done.put(number)


def _whole(folder: Path) -> int:
    """The parts that are there, each of them whole and as it was given."""
    index = Index.open(folder)
    parts = -(-len(index) // PART)
    for number in range(parts):
        ids = index.view.find(keys(PART, f"{number} "))
        expected = PART - (number == parts - 2 and len(index) % PART != 0)  # killed between a removal and its return
        assert (ids >= 0).sum() >= expected
        there = np.flatnonzero(ids >= 0)
        assert np.array_equal(index.view.take(ids[there]), unit_rows(PART, seed=number)[there])
    return parts


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing_that_was_committed(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    Index.create(folder, DIM, index="auto", memory=400 * DIM * 4)  # it becomes approximate on the way
    draw, committed = random.Random(0), 0
    for _ in range(5):
        done = processes.Queue()
        member = processes.Process(target=_add_forever, args=(folder, done))
        member.start()
        reported = done.get(timeout=60)
        time.sleep(draw.uniform(0, 0.15))
        os.kill(member.pid or 0, signal.SIGKILL)
        member.join()
        parts = _whole(folder)
        assert parts >= max(committed, reported + 1)
        committed = parts
    with writing(folder):  # sweeps
        assert {path.name for path in (folder / "segments").iterdir()} == {s.entry.name for s in Index.open(folder).view.segments}
        assert not list(folder.rglob("*.partial"))


def _hold(folder: Path, held: "multiprocessing.Queue[int]") -> None:
    with writing(folder):
        held.put(os.getpid())
        time.sleep(60)


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
    index = Index.create(folder, DIM, index=factory)
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
