"""Scoring by exact counting: against the product alone, a full sort, the speed of the disk, and its own growth.

`python -m tests.benchmarks.bench_evaluation [peers disk growth]`. Seconds are the least of repeats in turns; those of processors
are disturbed less by what else the machine does.
"""

import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import linprog

from largescale.corpus.batches.workers import worker_count
from largescale.corpus.config import LoaderConfig
from largescale.evaluation.protocol.metrics import average_precision, measure
from largescale.evaluation.protocol.protocols import Protocol, landmark_protocols
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.scoring.scores import Positives
from largescale.evaluation.search.counting import count
from tests.benchmarks.table import Row, report

ROWS, GALLERY, DIM, QUERIES, SHARD = 105_000, 5_000, 2_048, 70, 8_192
PREFIXES = [0, 1_000, 10_000, 100_000]
LISTS = ("easy", "hard", "junk")
REPEATS, REST = 7, 0.2
"""Seconds after which the threads of a product no longer wait for the next one, as they do busily."""
MEMORY = 300e6
MILLION, DISK_DIM, DISK_SHARD = 1_000_000, 512, 62_500
GROWTH, GROWTH_DIM = (10_000, 100_000, 1_000_000, 4_000_000), 512
Truth = list[dict[str, np.ndarray]]


def main(chosen: list[str]) -> None:
    parts = {"peers": peers, "disk": disk, "growth": growth}
    for name in chosen or parts:
        with tempfile.TemporaryDirectory() as folder:
            report(parts[name](Path(folder)))


def peers(folder: Path) -> Iterator[Row]:
    queries, rows, truth = make(folder)
    shards = [np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))]
    protocols = landmark_protocols("roxford5k", crop=True)
    ways = {
        "product": lambda: rows @ queries.T,
        "ours": lambda: by_counting(queries, shards, truth, protocols, 20),
        "ours, top 1000": lambda: by_counting(queries, shards, truth, protocols, 1000),
        "sort": lambda: by_sorting(queries, rows, truth),
    }
    clock, processors = fastest(ways)
    expected, found = by_sorting(queries, rows, truth), by_counting(queries, shards, truth, protocols, 20)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    what = "mAP easy, medium, hard, 70 x 105k x 2,048"
    for unit, seconds in (("s", clock), ("s of processors", processors)):
        yield Row(f"{what}, {unit}: product", seconds["ours"], seconds["product"], 1.4, smaller_is_better=True)
        yield Row(f"{what}, top 1,000, {unit}: product", seconds["ours, top 1000"], seconds["product"], 1.4, True)
    yield Row(f"{what}, s: argsort, membership", clock["ours"], clock["sort"], 1 / 3, smaller_is_better=True)
    yield memory(lambda: by_counting(queries, shards, truth, protocols, 1000))


def disk(folder: Path) -> Iterator[Row]:
    """Half-precision shards that are not in the page cache, against reading their bytes."""
    rng = np.random.default_rng(0)
    base, queries = unit(rng, DISK_SHARD, DISK_DIM), unit(rng, QUERIES, DISK_DIM)
    for first in range(0, MILLION, DISK_SHARD):
        np.save(folder / f"shard-{first:07d}.npy", np.roll(base, first // DISK_SHARD, axis=1).astype(np.float16))
    paths = sorted(folder.glob("*.npy"))

    def ours() -> None:
        count_rows(queries, [np.load(path, mmap_mode="c") for path in paths])

    seconds: dict[str, list[float]] = {"ours": [], "read": []}
    for _ in range(3):
        for name, run in (("read", partial(read, paths)), ("ours", ours)):
            forget(paths)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    speeds = {name: megabytes / min(values) for name, values in seconds.items()}
    yield Row(f"70 x 1M x {DISK_DIM} fp16 from disk, MB/s: reading the files", speeds["ours"], speeds["read"], 0.5)
    yield Row(f"70 x 1M x {DISK_DIM} fp16 from disk, s: reading the files", min(seconds["ours"]), min(seconds["read"]), 2, True)
    yield memory(ours)


def growth(folder: Path) -> Iterator[Row]:
    """Seconds of processors at several numbers of generated rows, and on the nearest line: a start, and so much per row."""
    rng = np.random.default_rng(0)
    rows, queries = unit(rng, max(GROWTH), GROWTH_DIM), unit(rng, QUERIES, GROWTH_DIM)
    counts: dict[str, Callable[[], object]] = {
        str(number): partial(count_rows, queries, np.array_split(rows[:number], -(-number // SHARD))) for number in GROWTH
    }
    seconds = fastest(counts, 3)[1]
    found = np.array([seconds[str(number)] for number in GROWTH])
    line = nearest_line(np.array(GROWTH), found)
    for number, measured, expected in zip(GROWTH, found.tolist(), line.tolist(), strict=True):
        yield Row(f"s of processors, {number:,} rows: on the line", measured, expected, 1.1, True)


def nearest_line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`(n,)` values of the line a + b x that misses y by the least share of it; a is not negative."""
    ones = np.ones(len(x))
    columns = np.column_stack([ones / y, x / y, -ones])  # a / y + b x / y - 1 is between -miss and miss
    limits = np.concatenate([columns, np.column_stack([-columns[:, :2], -ones])])
    solved = linprog([0, 0, 1], limits, np.concatenate([ones, -ones]))
    return solved.x[0] + solved.x[1] * x


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    x = rng.standard_normal((rows, dim), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def count_rows(queries: np.ndarray, parts: list[np.ndarray]) -> None:
    """As the stage counts them; forty rows of the gallery are judged for each query."""
    rng, rows = np.random.default_rng(1), sum(map(len, parts))
    judged = Judged.of([{"easy": rng.permutation(GALLERY)[:40]} for _ in queries], LISTS)
    count(queries, GalleryRows(parts, np.zeros(rows, dtype=np.int8)), judged, 1000, workers=worker_count(LoaderConfig()))


def memory(run: Callable[[], object]) -> Row:
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Row("memory at its peak, MB: the limit", peak / 1e6, MEMORY / 1e6, 1, smaller_is_better=True)


def read(paths: list[Path]) -> None:
    buffer = bytearray(2**24)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def forget(paths: list[Path]) -> None:
    """Out of the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def make(folder: Path) -> tuple[np.ndarray, np.ndarray, Truth]:
    """Unit rows whose similarities spread as those of photographs do, positives nearer than the rest; shards on disk."""
    rng = np.random.default_rng(0)
    rows = np.empty((ROWS, DIM), dtype=np.float32)
    basis = rng.standard_normal((64, DIM), dtype=np.float32)
    for first in range(0, ROWS, SHARD):
        part = rows[first : first + SHARD]
        part[:] = rng.standard_normal((len(part), 64), dtype=np.float32) @ basis
        part += 4 * rng.standard_normal(part.shape, dtype=np.float32)
    queries = rng.standard_normal((QUERIES, 64), dtype=np.float32) @ basis
    truth = []
    for query in queries:
        named = rng.permutation(GALLERY)[:110]
        rows[named] += rng.uniform(0, 1, (110, 1)).astype(np.float32) * query
        truth.append(dict(zip(LISTS, np.split(named, [40, 70]), strict=True)))
    for x in (rows, queries):
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    for first in range(0, ROWS, SHARD):
        np.save(folder / f"shard-{first:06d}.npy", rows[first : first + SHARD])
    return queries, rows, truth


def by_counting(
    queries: np.ndarray, shards: list[np.ndarray], truth: Truth, protocols: Sequence[Protocol], neighbors: int
) -> list[float]:
    """mAP of each level, with every prefix of distractors counted on the way."""
    group = np.zeros(ROWS, dtype=np.int8)
    group[GALLERY:] = np.searchsorted(PREFIXES, np.random.default_rng(1).permutation(ROWS - GALLERY), "right")
    judged = Judged.of(truth, LISTS)
    counted = count(queries, GalleryRows(shards, group), judged, neighbors, workers=worker_count(LoaderConfig()))
    scores = []
    for protocol in protocols:
        right = np.isin(judged.list, [LISTS.index(name) for name in protocol.positive])
        positives = Positives.of(judged, counted.score, right)
        levels = [measure(positives.ranked(before), "map_trapezoid") for before in counted.before.cumsum(axis=1).T]
        scores.append(float(levels[-1].mean()))
    return scores


def by_sorting(queries: np.ndarray, rows: np.ndarray, truth: Truth) -> list[float]:
    """The usual way: all scores, a full sort per query, then membership of every place in the lists."""
    ranking = np.argsort(-np.dot(rows, queries.T), axis=0)
    levels: list[Mapping[str, tuple[str, ...]]] = [
        {"right": ("easy",), "junk": ("junk", "hard")},
        {"right": ("easy", "hard"), "junk": ("junk",)},
        {"right": ("hard",), "junk": ("junk", "easy")},
    ]
    scores = []
    for level in levels:
        values = []
        for q, lists in enumerate(truth):
            right, junk = (np.concatenate([lists[name] for name in level[part]]) for part in ("right", "junk"))
            places = np.flatnonzero(np.isin(ranking[:, q], right))
            skipped = np.flatnonzero(np.isin(ranking[:, q], junk))
            values.append(average_precision(places - np.searchsorted(skipped, places), len(right)))
        scores.append(float(np.mean(values)))
    return scores


def fastest(ways: Mapping[str, Callable[[], object]], repeats: int = REPEATS) -> tuple[dict[str, float], dict[str, float]]:
    """Least seconds of the clock and of processors of several repeats, the ways in turn."""
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processors: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            time.sleep(REST)
            start, spent = time.perf_counter(), time.process_time()
            run()
            clock[name].append(time.perf_counter() - start)
            processors[name].append(time.process_time() - spent)
    least = [{name: min(values) for name, values in seconds.items()} for seconds in (clock, processors)]
    return least[0], least[1]


if __name__ == "__main__":
    main(sys.argv[1:])
