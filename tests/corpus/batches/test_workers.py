"""Loader workers as processes: they end when they should, and they do not grow."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.batches.batches import Step
from largescale.corpus.batches.workers import split
from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_steps
from largescale.corpus.manifest import Manifest
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.corpus.test_plan import manifest_of
from tests.programs import ROOT, Program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "c")


def endless(folder: Path, workers: int = 1) -> Iterator[Step]:
    columns = np.random.default_rng(0).integers(0, 24, (100_000, 8))
    loader = LoaderConfig(workers=workers)
    return load_steps(Corpus.open(str(folder)), columns, ImagesConfig(), epoch=0, seed=0, loader=loader)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def program(folder: Path, rest: str) -> list[str]:
    """A program that reads, and tells the numbers of its workers."""
    code = f"""
import multiprocessing
from pathlib import Path
from tests.corpus.batches.test_workers import endless
steps = endless(Path({str(folder)!r}), workers=2)
next(steps)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
{rest}
"""
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_workers_end_with_the_training_process(folder: Path) -> None:
    process = Program(program(folder, "while True: next(steps)"))
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    assert wait_for(lambda: all(map(gone, workers)))


@pytest.mark.slow
def test_workers_outlive_the_signals_that_ask_the_training_to_stop(folder: Path) -> None:
    steps = endless(folder)
    next(steps)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker.pid or 0, number)
    for _ in range(20):
        next(steps)
    assert worker.is_alive()
    steps.close()  # type: ignore[attr-defined]
    assert wait_for(lambda: not worker.is_alive())


@pytest.mark.slow
def test_a_program_ends_in_the_middle_of_a_loop(folder: Path) -> None:
    """The loop is still referred to when Python ends, and its workers ignore the signal with which they are asked to end."""
    process = subprocess.Popen(program(folder, "raise SystemExit(3)"), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert process.wait(timeout=20) == 3
    assert wait_for(lambda: all(map(gone, workers)))


@pytest.mark.slow
def test_a_killed_worker_is_an_error(folder: Path) -> None:
    steps = endless(folder)
    next(steps)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(UserError, match=r"exited unexpectedly.*lower loader\.workers"):
        for _ in steps:
            pass


@pytest.mark.slow
def test_workers_do_not_grow(folder: Path) -> None:
    steps = endless(folder)

    def private_bytes() -> int:
        (worker,) = multiprocessing.active_children()
        status = Path(f"/proc/{worker.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) * 1024

    for _ in range(50):
        next(steps)
    early = private_bytes()
    for _ in range(500):
        next(steps)
    assert private_bytes() < early + 2**20
    steps.close()  # type: ignore[attr-defined]


class TestSplit:
    def manifest(self, images: int, shards: int, size: int) -> Manifest:
        manifest = manifest_of(np.array([images]), shards)
        manifest.columns["size"] = np.full(images, size, np.int32)  # type: ignore[index]
        return manifest

    @pytest.mark.parametrize(
        ("images", "shards", "size", "batch"), [(1000, 3, 10, 8), (50_000, 7, 10, 64), (5000, 2, 10**6, 64), (3, 1, 1, 4)]
    )
    def test_parts_cover_everything_within_shards_and_bounds(self, images: int, shards: int, size: int, batch: int) -> None:
        manifest = self.manifest(images, shards, size)
        ids = np.flatnonzero(np.random.default_rng(0).random(images) < 0.9)
        parts = split(manifest, ids, batch)
        assert np.concatenate([ids[part] for part in parts]).tolist() == ids.tolist()
        assert all(len(np.unique(manifest.shard[ids[part]])) == 1 for part in parts)
        assert all(manifest.columns["size"][ids[part]].sum() <= 2**26 + size for part in parts)
        assert all(part.stop - part.start <= max(4 * batch, len(ids) // 64) for part in parts)

    def test_enough_parts_for_many_workers(self) -> None:
        assert len(split(self.manifest(100_000, 4, 10), np.arange(100_000), 32)) >= 64
