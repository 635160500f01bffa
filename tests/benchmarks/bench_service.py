"""The mining service beside training: what it costs the trainers, and how soon a generation follows its weights.

`python -m tests.benchmarks.bench_service`. Both are programs as a user starts them, each on its half of the cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from largescale.commit import write_text
from largescale.config import load, to_yaml
from largescale.corpus.corpus import Corpus
from largescale.cpu import own_threads
from largescale.embedding import Embedder
from largescale.models.build import build_network
from largescale.models.network import RetrievalNet
from largescale.models.weights import save_weights
from largescale.training.settings.recipe import TrainConfig
from tests.benchmarks.table import Row, report
from tests.conftest import ROOT
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT, kill_all, lines

ROUNDS, REFRESHES, STEPS, LEAST_WAIT_S = 2, 3, 16, 0.05
SETTINGS = [
    *("images.size=128", "model.backbone=squeezenet1_1", f"tuples={{per_step: 4, per_epoch: {4 * STEPS}}}"),
    *("tracking={wandb: 'off', every: 1}", "evaluation.every=0"),
]


def halves() -> tuple[list[str], list[str]]:
    """Words before a command that keep it on the first or the second half of the cores.

    Raises:
        RuntimeError: there is one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise RuntimeError("the service needs cores of its own, this process may use one only")
    first, second = (",".join(map(str, part)) for part in np.array_split(cores, 2))
    return ["taskset", "-c", first], ["taskset", "-c", second]


def start(program: str, arguments: list[str], output: Path, prefix: list[str] | None = None) -> subprocess.Popen:
    """What it prints goes to a file: a full pipe would stop it."""
    command = [*(prefix or []), sys.executable, f"launch/{program}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=output.open("w"), stderr=subprocess.STDOUT)


def train(folder: Path, corpus: Path, name: str, served: bool) -> tuple[list[float], float, float]:
    """Seconds of the steps, the longest wait at a boundary, and the share of the time in which the service was at work."""
    ours, others = halves()
    directory = folder / name
    mining = "mining={negatives: 2, home: service, wait: never}"
    arguments = [*SETTINGS, "loader.workers=0", "epochs=6", mining, f"corpus={corpus}", f"runs={folder}", f"name={name}"]
    programs = [start("train.py", arguments, folder / f"{name}.txt", ours)]
    programs += [start("mine.py", [str(directory)], folder / f"{name}-service.txt", others)] if served else []
    try:
        for program in programs:
            assert program.wait(timeout=600) == 0, f"see {folder}"
    finally:
        for program in programs:
            kill_all(program)
    record = lines(directory)
    seconds = [4 * 4 / line["data/images_per_second"] for line in record if "data/images_per_second" in line]
    waits = [line["mining/wait_seconds"] for line in record if "mining/wait_seconds" in line]
    mined = sum(line["mining/seconds"] for line in own_record(directory)) if served else 0.0
    return seconds, max(waits), mined / sum(seconds)


def own_record(directory: Path) -> list[dict[str, Any]]:
    path = directory / "mining" / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trainers() -> Iterator[Row]:
    """Runs with and without a service take turns, so that what else the machine does meets both."""
    with tempfile.TemporaryDirectory() as place:
        folder, times = Path(place), dict[bool, list[float]]({True: [], False: []})
        corpus, waits, shares = make_corpus(folder / "corpus", 60, 10, shards=4, size=128), [], []
        for number in range(ROUNDS):
            for served in (False, True):
                seconds, wait, share = train(folder, corpus, f"{number}-{served}", served)
                times[served] += seconds[2:]
                if served:
                    waits.append(wait)
                    shares.append(share)
    with_service, alone = (statistics.median(times[served]) for served in (True, False))
    name = f"step with a service that works {100 * min(shares):.0f} % of the time, without (s)"
    yield Row(name, with_service, alone, 1.02, smaller_is_better=True)
    yield Row(f"longest wait at a boundary (s, limit {LEAST_WAIT_S})", max(waits), LEAST_WAIT_S, 1, smaller_is_better=True)


def bare_pass(network: RetrievalNet, corpus: Corpus, config: TrainConfig) -> float:
    """Seconds to embed all images and nothing else."""
    assert config.mining is not None
    embedder = Embedder(config.images, config.mining.batch_size, config.loader, torch.device("cpu"), config.precision)
    start_s = time.perf_counter()
    with own_threads():
        for _ in embedder.embed(network, corpus, np.arange(len(corpus.manifest))):
            pass
    return time.perf_counter() - start_s


def refreshes() -> Iterator[Row]:
    """Weights appear in a run directory that a service follows; bare passes in between, while it has nothing to do."""
    with tempfile.TemporaryDirectory() as place:
        folder, run = Path(place), Path(place) / "run"
        corpus = Corpus.open(str(make_corpus(folder / "corpus", 600, 10, shards=8, size=128)))
        arguments = [*SETTINGS, f"epochs={REFRESHES + 2}", f"corpus={folder / 'corpus'}", f"runs={folder}", "name=run"]
        config = load(TrainConfig, [*arguments, "mining={home: service, wait: always}"])
        write_text(run / "config.yaml", to_yaml(config))
        network = build_network(config.model)
        service, bare = start("mine.py", [str(run)], folder / "service.txt"), []
        try:
            for epoch in range(REFRESHES + 1):
                about = {"step": epoch * STEPS, "run": "run", "corpus": corpus.manifest.fingerprint}
                save_weights(network, run / "weights" / f"step-{epoch * STEPS:06d}.safetensors", about)
                while len(own_record(run)) <= epoch:
                    assert service.poll() is None, (folder / "service.txt").read_text()
                    time.sleep(0.05)
                bare.append(bare_pass(network.eval(), corpus, config))
        finally:
            kill_all(service)
        behind = [line["mining/refresh_seconds"] for line in own_record(run)]
    both = (statistics.median(values[1:]) for values in (behind, bare))  # at the first, the service starts
    yield Row("weights written to generation published, bare embedding pass (s)", *both, 1.1, smaller_is_better=True)


def rows() -> Iterator[Row]:
    yield from refreshes()
    yield from trainers()


if __name__ == "__main__":
    raise SystemExit(0 if report(rows()) else 1)
