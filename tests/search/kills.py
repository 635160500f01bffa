"""A process that changes an index, killed at random moments: `python -m tests.search.kills [100]` counts.

It adds parts of `PART` rows, takes a row away now and then and gives it back, and reports each part that it was told is kept.
"""

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from largescale.search.index import Index
from largescale.search.writer import writing
from tests.search.rows import DIM, keys, unit_rows
from tests.world import PRELOAD

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(PRELOAD)
PART, LIVES, SPAN_S = 40, 10, 0.3


def make_index(folder: Path) -> None:
    """It becomes approximate on the way."""
    Index.create(folder, DIM, factory="auto", memory=400 * DIM * 4)


def add_forever(folder: Path, done: "multiprocessing.Queue[int]") -> None:
    index = Index.open(folder)
    for number in range(len(index) // PART, 1000):
        index.add_rows(unit_rows(PART, seed=number), keys(PART, f"{number} "))
        if number % 3 == 2:
            index.remove([f"{number - 1} 00001"])
            index.add_rows(unit_rows(PART, seed=number - 1)[1:2], [f"{number - 1} 00001"])
        done.put(number)


def whole_parts(folder: Path) -> int:
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


def kill_writers(folder: Path, lives: int, moments: random.Random) -> Counter[str]:
    """So many writers of one index, one after the other.

    Raises:
        AssertionError: a part that was reported or seen is gone or not as it was; what a killed writer left stays when the next
            one has swept.
    """
    counts = Counter[str]()
    for _ in range(lives):
        done = processes.Queue()
        member = processes.Process(target=add_forever, args=(folder, done))
        member.start()
        reported = done.get(timeout=120)
        time.sleep(moments.uniform(0, SPAN_S))
        os.kill(member.pid or 0, signal.SIGKILL)
        member.join()
        parts = whole_parts(folder)
        assert parts >= max(counts["parts whole"], reported + 1)
        counts["kills"] += 1
        counts["parts whole"] = parts
        counts["in the middle of a file"] += bool(list(folder.rglob("*.partial")))
    with writing(folder):  # sweeps
        assert {path.name for path in (folder / "segments").iterdir()} == {s.entry.name for s in Index.open(folder).view.segments}
        assert not list(folder.rglob("*.partial"))
    return counts


def main(kills: int = 100) -> None:
    moments, counts = random.Random(0), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        while counts["kills"] < kills:
            folder = Path(name) / str(counts["kills"])
            make_index(folder)
            counts += kill_writers(folder, LIVES, moments)
    print(" | ".join(f"{name}: {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
