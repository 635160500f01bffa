"""How soon launch/train.py answers, and how much later a resumed run takes its first step than a fresh one."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.table import Row, report
from tests.conftest import ROOT
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT

PROGRAM = [sys.executable, "launch/train.py"]
LATE, REPEATS = 1500, 3


def answer_seconds(*arguments: str) -> float:
    """The fastest of several answers to a command."""
    times = []
    for _ in range(REPEATS):
        start = time.monotonic()
        subprocess.run([*PROGRAM, *arguments], cwd=ROOT, capture_output=True, check=False)
        times.append(time.monotonic() - start)
    return min(times)


def last_step(directory: Path) -> int:
    """The step of the last complete line of the record; -1 without one."""
    path = directory / "log.jsonl"
    tail = path.read_bytes()[-2000:].split(b"\n") if path.exists() else []
    return json.loads(tail[-2])["step"] if len(tail) > 1 else -1


def run_to(step: int, runs: Path, name: str, settings: list[str]) -> float:
    """Seconds from the start of the process until it has taken `step`; then it is asked to stop."""
    start = time.monotonic()
    command, silent = [*PROGRAM, *settings, f"name={name}"], subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=silent, stderr=silent)
    try:
        while last_step(runs / name) < step:
            assert process.poll() is None, "the run ended too early"
            time.sleep(0.01)
        return time.monotonic() - start
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def resume_seconds(directory: Path) -> tuple[float, float]:
    """From process start to the first step, fastest of several: a fresh run, and one that goes on late in an epoch."""
    corpus = make_corpus(directory / "corpus", labels=1000, per_label=8, shards=8, size=32)
    plan = [
        "loss={name: metric_learning, loss: TripletMarginLoss}",
        "batches={classes_per_batch: 2, images_per_class: 2}",
        "images.size=32",
    ]
    settings = [
        f"corpus={corpus}",
        f"runs={directory}",
        *plan,
        "model.backbone=squeezenet1_1",
        "tracking={wandb: 'off', every: 1}",
    ]
    run_to(LATE, directory, "late", settings)
    fresh, resumed = [], []
    for repeat in range(REPEATS):
        fresh.append(run_to(1, directory, f"fresh-{repeat}", settings))
        resumed.append(run_to(last_step(directory / "late") + 1, directory, "late", settings))
    return min(fresh), min(resumed)


def rows() -> Iterator[Row]:
    yield Row("launch/train.py --help (s, limit 4)", answer_seconds("--help"), 4, 1, smaller_is_better=True)
    yield Row("a misspelt key (s, limit 4)", answer_seconds("optim.learning_rat=1"), 4, 1, smaller_is_better=True)
    with tempfile.TemporaryDirectory() as directory:
        fresh, resumed = resume_seconds(Path(directory))
    yield Row("first step of a fresh run (s)", fresh, fresh, 1, smaller_is_better=True)
    name = f"first step of a run resumed after step {LATE:,}, later than that (s, limit 2)"
    yield Row(name, max(resumed - fresh, 0), 2, 1, smaller_is_better=True)


if __name__ == "__main__":
    sys.exit(not report(rows()))
