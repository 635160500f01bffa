"""Scoring 70 queries against 105,000 descriptors: exact counting against the product alone, and against a full sort.

python -m tests.benchmarks.bench_evaluation
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from largescale.corpus.config import LoaderConfig
from largescale.corpus.workers import worker_count
from largescale.evaluation.counting import count
from largescale.evaluation.protocols import Protocol, landmark_protocols
from largescale.evaluation.ranking import average_precision, measure
from largescale.evaluation.rows import Gallery, Judged
from largescale.evaluation.scoring import Positives
from tests.benchmarks.table import Row, report

ROWS, GALLERY, DIM, QUERIES, SHARD = 105_000, 5_000, 2_048, 70, 8_192
PREFIXES = [0, 1_000, 10_000, 100_000]
LISTS = ("easy", "hard", "junk")
REPEATS = 7
MEMORY = 300e6
Truth = list[dict[str, np.ndarray]]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report(measure_all(Path(folder)))


def measure_all(folder: Path) -> Iterator[Row]:
    queries, rows, truth = make(folder)
    shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
    protocols = landmark_protocols("roxford5k", crop=True)
    seconds = fastest(
        {
            "product": lambda: rows @ queries.T,
            "ours": lambda: by_counting(queries, shards, truth, protocols, 20),
            "ours, top 1000": lambda: by_counting(queries, shards, truth, protocols, 1000),
            "sort": lambda: by_sorting(queries, rows, truth),
        }
    )
    expected, found = by_sorting(queries, rows, truth), by_counting(queries, shards, truth, protocols, 20)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    what = "mAP easy, medium, hard, 70 x 105k x 2,048, s"
    yield Row(f"{what}: the product alone", seconds["ours"], seconds["product"], 1.4, smaller_is_better=True)
    yield Row(f"{what}, top 1,000: the product", seconds["ours, top 1000"], seconds["product"], 1.4, True)
    yield Row(f"{what}: argsort, membership", seconds["ours"], seconds["sort"], 1 / 3, smaller_is_better=True)
    tracemalloc.start()
    by_counting(queries, shards, truth, protocols, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    yield Row("memory at its peak, MB: the limit", peak / 1e6, MEMORY / 1e6, 1, smaller_is_better=True)


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
    queries: np.ndarray, shards: list[np.ndarray], truth: Truth, protocols: Sequence[Protocol], neighbours: int
) -> list[float]:
    """mAP of each level, with every prefix of distractors counted on the way."""
    group = np.zeros(ROWS, dtype=np.int8)
    group[GALLERY:] = np.searchsorted(PREFIXES, np.random.default_rng(1).permutation(ROWS - GALLERY), "right")
    judged = Judged.of(truth, LISTS)
    counted = count(queries, Gallery(shards, group), judged, neighbours, workers=worker_count(LoaderConfig()))
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


def fastest(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Least seconds of each of several repeats, the ways in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
