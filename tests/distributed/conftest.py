from pathlib import Path

import pytest

from tests.corpora import make_corpus
from tests.distributed.runs import run

STEPS = 24


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), labels=12, per_label=6, shards=4, size=64, mixed=True)


@pytest.fixture(scope="session")
def settings(corpus) -> list[str]:
    """Two epochs of twelve steps with mined negatives; a checkpoint every five steps, a line every step."""
    return [
        *(f"corpus={corpus}", "images.size=64", "loader.workers=0", "model.backbone=squeezenet1_1", "epochs=2"),
        *("tuples.per_step=4", "tuples.per_epoch=48", "mining.negatives=2", "optim.name=sgd", "optim.lr=1e-3"),
        *("checkpoint.every=5", "tracking.every=1", "tracking.wandb=off"),
    ]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, settings):
    """The run directory of an uninterrupted run on so many processes."""
    runs = tmp_path_factory.mktemp("uninterrupted")

    def directory(processes: int) -> Path:
        path = runs / str(processes)
        if not path.exists():
            run([*settings, f"runs={runs}", f"name={processes}"], processes)
        return path

    return directory
