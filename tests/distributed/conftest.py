import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.corpora import make_corpus
from tests.distributed.runs import run

STEPS = 24


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all workers of the session have in common."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether `path` is still to be made; the other workers wait until it is."""
    made = path.with_suffix(".made")
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not made.exists()
        made.touch()


@pytest.fixture(scope="session")
def corpus(shared) -> Path:
    path = shared / "corpus"
    with alone(path) as missing:
        if missing:
            make_corpus(path, labels=12, per_label=6, shards=4, size=64, mixed=True)
    return path


@pytest.fixture(scope="session")
def settings(corpus) -> list[str]:
    """Two epochs of twelve steps with mined negatives; a checkpoint every five steps, a line every step."""
    return [
        *("name=default", f"corpus={corpus}", "images.size=64", "loader.workers=0", "model.backbone=squeezenet1_1", "epochs=2"),
        *("tuples.per_step=4", "tuples.per_epoch=48", "mining.negatives=2", "optim.name=sgd", "optim.lr=1e-3"),
        *("checkpoint.every=5", "tracking.every=1", "tracking.wandb=off", "precision=fp32"),
    ]


@pytest.fixture(scope="session")
def uninterrupted(shared, settings):
    """The run directory of an uninterrupted run on so many processes."""

    def directory(processes: int) -> Path:
        path = shared / str(processes)
        with alone(path) as missing:
            if missing:
                run([*settings, f"runs={shared}", f"name={processes}"], processes)
        return path

    return directory
