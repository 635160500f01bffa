"""Seconds of processor time that plans of 7.4 million images and a manifest of a million rows take, against their limits."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from largescale.corpus.config import LabelPlanConfig, StorageConfig, TuplePlanConfig
from largescale.corpus.manifest import Manifest
from largescale.corpus.plan import plan_tuples
from largescale.corpus.samplers import plan_labels
from largescale.corpus.storage.storage import open_storage
from tests.benchmarks.table import Row, median_seconds, report
from tests.corpus.synthetic import manifest_of, write_large_manifest

LIMIT_S = 3.0
OPEN_S = 0.05


def seconds(work: Callable[[], Any]) -> float:
    return median_seconds(work, 1, time.process_time)


def million(folder: Path) -> Callable[[], Manifest]:
    """What opens a manifest of a million rows, whose columns were hashed once."""
    write_large_manifest(folder)
    storage = StorageConfig(cache=folder / "cache")
    Manifest.open(open_storage(str(folder), storage))
    return lambda: Manifest.open(open_storage(str(folder), storage))


def rows(folder: Path) -> Iterator[Row]:
    manifest = manifest_of(np.random.default_rng(0).multinomial(7_400_000, np.full(100_000, 1e-5)), shards=300)
    for config in (LabelPlanConfig(), LabelPlanConfig(shuffle_window=8), LabelPlanConfig(shots=20)):
        changed = config.model_dump(exclude_defaults=True) or "defaults"
        took = seconds(lambda config=config: plan_labels(manifest, config, 0, 0))  # type: ignore[misc]
        yield Row(f"an epoch of labels, 7.4 million images, {changed} / {LIMIT_S:g} s", took, LIMIT_S, 1, smaller_is_better=True)
    for window in (None, 8):
        config = TuplePlanConfig(shuffle_window=window, per_epoch=1_000_000)
        took = seconds(lambda config=config: plan_tuples(manifest, config, 0, 0))  # type: ignore[misc]
        yield Row(f"a million tuples, window {window} / {LIMIT_S:g} s", took, LIMIT_S, 1, smaller_is_better=True)
    yield Row(f"opening a million rows / {OPEN_S:g} s", seconds(million(folder)), OPEN_S, 1, smaller_is_better=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not report(rows(Path(folder))))
