"""`make gpu-check` runs to its end without a GPU; a part that takes too long, lacks something, fails or dies is a row."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.benchmarks.gpu.measure import SMALL, Place, Row
from tests.benchmarks.gpu_check import PARTS, TOTAL_S, Part, rows_of
from tests.programs import run
from tests.test_processes import ends

KINDS = ("embedding one batch", "embedding from shards", "training on one batch", "training from shards")
SPEEDS = {f"64 px: {kind}, {how}" for kind in KINDS for how in ("eager", "compiled")}

COMPARED = ("embedding in bf16", "three scales in", "evaluation", "learned whitening", "gradient", "18 losses", "exact", "FAISS")


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    done = run([sys.executable, "-m", "tests.benchmarks.gpu_check", "--device", "cpu", "--out", file])
    assert done.returncode == 0, done.stderr
    assert file.read_text() == done.stdout
    head, *_, first = done.stdout.splitlines()[:5]
    assert "at a small size" in head
    assert first == "| gloo world of one: sums, decisions, gather | right | right | ok |"
    rows = {what: rest for what, *rest in (line.strip("| ").split(" | ") for line in done.stdout.splitlines()[4:])}
    wrong = {what: rest for what, rest in rows.items() if rest[-1] == "missed" or rest[0].startswith(("no time", "left out"))}
    assert not wrong, done.stderr
    assert rows.keys() >= SPEEDS
    assert all("images/s" in rows[what][0] and "GiB" in rows[what][0] for what in SPEEDS)
    assert all("waiting" in rows[what][0] for what in SPEEDS if "shards" in what)
    assert all(any(what.startswith(kind) for what in rows) for kind in COMPARED)


def test_the_parts_fit_into_the_time() -> None:
    assert sum(part.limit_s for part in PARTS.values()) <= TOTAL_S - 10


def sleeps(place: Place) -> Iterator[Row]:
    child = subprocess.Popen(["sleep", "60"])
    yield Row("sleeps", str(child.pid))
    time.sleep(60)


def lacks(place: Place) -> Iterator[Row]:
    import a_library_that_nobody_has  # type: ignore[import-not-found]

    yield Row("has", str(a_library_that_nobody_has))


def fails(place: Place) -> Iterator[Row]:
    yield Row("begins", "well")
    raise ValueError("it ends badly\nand says more")


def dies(place: Place) -> Iterator[Row]:
    yield Row("lives", "at first")
    os._exit(3)


def rows(name: str, tmp_path: Path, limit_s: int = 60) -> list[Row]:
    place = Place(torch.device("cpu"), SMALL, tmp_path)
    return list(rows_of(name, Part(f"test_gpu_check.{name}", limit_s), place))


@pytest.mark.slow
def test_a_part_ends_with_its_time_and_all_that_it_started(tmp_path: Path) -> None:
    first, last = rows("sleeps", tmp_path, limit_s=5)
    assert last == Row("sleeps", "no time: its 5 s are over", ok=False)
    assert ends(int(first.found), within_s=5)


@pytest.mark.slow
def test_what_goes_wrong_is_a_row(tmp_path: Path) -> None:
    assert rows("lacks", tmp_path) == [Row("lacks", "left out: a_library_that_nobody_has is not installed")]
    assert rows("fails", tmp_path) == [Row("begins", "well"), Row("fails", "failed: ValueError: it ends badly", ok=False)]
    assert rows("dies", tmp_path) == [Row("lives", "at first"), Row("dies", "its process ended with status 3", ok=False)]
