"""What a long training does to memory, descriptors, threads, files and time: `python -m tests.benchmarks.long_run [EPOCHS=900]`.

The demo takes four minutes for ten epochs of fifty steps (`configs/demo.yaml`): in six hours 900 epochs, each with a generation
of negatives and a checkpoint, and 45,000 steps. Here are as many of all four, by a network of one layer on few and small pictures
(3 a step of 32 pixels where the demo has 56 of 128, 48 in all where it has 1,200), in one process in place of two. A line for
each tenth of the run.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import nn

from largescale.models import backbone
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT, lines
from tests.programs import ROOT

EPOCHS, STEPS, LINES, LOOK_S = 900, 50, 10, 0.5
PLACED = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
"""The network below is imported by its name."""
TICKS, PAGE, SHARED_MEMORY = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE"), Path("/dev/shm")
SETTINGS = [
    *(
        "images.size=32",
        "model={backbone: 'tests.benchmarks.long_run:tiny', weights: none, freeze_batchnorm: false}",
        "loader.workers=1",
    ),
    *("loss={name: contrastive, margin: 0.5}", "mining.negatives=1", "optim.lr=1e-3", "evaluation.every=0"),
    *(
        "schedule={name: cosine, warmup_steps: 30}",
        f"tuples={{per_step: 1, per_epoch: {STEPS}}}",
        "tracking.wandb=off",
        "name=long",
    ),
]


@backbone
def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.ReLU())


class Held(NamedTuple):
    """By the training and the processes that it has started."""

    processes: int
    memory: float
    """MB that are resident, of the training itself."""
    descriptors: int
    threads: int
    shared: int
    """Files in shared memory, of whoever uses the machine."""
    files: int
    size: float
    """MB of the run directory."""
    seconds: float
    """Of processors, so far."""


def held(pid: int, run: Path) -> Held:
    family = [pid, *_children(pid)]
    files = [path for path in run.rglob("*") if path.is_file()]
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    threads = len(os.listdir(f"/proc/{pid}/task"))
    seconds = sum(map(_seconds, family))
    shared, size = len(os.listdir(SHARED_MEMORY)), sum(path.stat().st_size for path in files) / 1e6
    return Held(len(family), memory, descriptors, threads, shared, len(files), size, seconds)


def _children(pid: int) -> Iterator[int]:
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        yield child
        yield from _children(child)


def _seconds(pid: int) -> float:
    """Of a process and those of its children that have ended."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])) / TICKS


def main(folder: Path, epochs: int) -> int:
    corpus = make_corpus(folder / "corpus", labels=12, per_label=4, shards=2, size=32)
    command = [sys.executable, "launch/train.py", *SETTINGS, f"corpus={corpus}", f"runs={folder}", f"epochs={epochs}"]
    run, log = folder / "long", folder / "output"
    with log.open("w") as output:
        training = subprocess.Popen(command, cwd=ROOT, env=PLACED, stdout=output, stderr=subprocess.STDOUT)
    print(
        "| epoch | steps | processes | MB | descriptors | threads | /dev/shm | files | MB of files | CPU s a step | s a step |",
        flush=True,
    )
    print("|---:" * 11 + "|", flush=True)
    before, began, epoch = 0.0, time.monotonic(), 0
    for mark in dict.fromkeys((1, *(max(1, epochs * part // LINES) for part in range(1, LINES + 1)))):
        while training.poll() is None and _generations(run) <= mark - (mark == epochs):
            time.sleep(LOOK_S)
        if training.poll() is not None:
            break
        now, steps = held(training.pid, run), max(1, (mark - epoch) * STEPS)
        cpu, wall = (now.seconds - before) / steps, (time.monotonic() - began) / steps
        print(
            f"| {mark} | {mark * STEPS:,} | {now.processes} | {now.memory:.0f} | {now.descriptors} | {now.threads} "
            f"| {now.shared} | {now.files} | {now.size:.1f} | {cpu:.3f} | {wall:.3f} |",
            flush=True,
        )
        before, began, epoch = now.seconds, time.monotonic(), mark
    status = training.wait()
    print(f"exit status {status}; {sum('train/loss' in line for line in lines(run)):,} losses are recorded")
    if status:
        print(log.read_text()[-2000:])
    return status


def _generations(run: Path) -> int:
    return len(list((run / "negatives").glob("gen-*"))) if run.exists() else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="long-") as place:
        sys.exit(main(Path(place), int(sys.argv[1]) if len(sys.argv) > 1 else EPOCHS))
