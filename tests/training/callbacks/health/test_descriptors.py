"""Distances of a step are those of the definition, over all ranks; the hardest tuples come first."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.tracking.mirrors import Mirror
from largescale.training.callbacks import Callback
from largescale.training.callbacks.health.descriptors import of_labels, of_tuples, tuples_of_labels
from tests.corpora import make_corpus
from tests.training.test_trainer import train
from tests.world import run_world


def test_distances_are_those_of_the_definition() -> None:
    x = torch.tensor([[0.0, 0], [3, 4], [0, 1], [6, 8], [0, 0], [1, 0], [5, 12], [0, 2]])
    positives, negatives = of_tuples(x, 2)
    assert positives.tolist() == [5, 1]
    assert negatives.tolist() == [[1, 10], [13, 2]]
    same, different = of_labels(x[:4], torch.tensor([0, 0, 1, 1]))
    assert same.tolist() == pytest.approx([5, 85**0.5])
    assert sorted(different.tolist()) == pytest.approx([1, 18**0.5, 5, 10])
    x[4, 1] = -0.5
    rows = tuples_of_labels(x[:5], torch.tensor([0, 0, 1, 1, 2]))
    assert rows.tolist() == [[0, 1, 4, 2, 3], [1, 0, 2, 3, 4], [2, 3, 0, 4, 1], [3, 2, 1, 0, 4]]


class Shown:
    """Takes what a run shows."""

    key, id, known, shows_pictures = "shown", None, 0, True

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, number: int, line: Mapping[str, Any]) -> None: ...

    def table(self, number: int, name: str, rows: list[Mapping[str, Any]]) -> None:
        kept = [{**row, "strip": row["strip"].shape} for row in rows]
        (self.directory / f"{name.replace('/', '-')}-{number}.json").write_text(json.dumps(kept))

    def curve(self, number: int, name: str, rows: list[Mapping[str, Any]], axes: tuple[str, str, str]) -> None: ...

    def close(self) -> None: ...


class Show(Callback):
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self) -> None:
        if self.trainer.world.is_first:
            mirror: Mirror = Shown(self.directory)
            self.trainer.tracker._mirrors.append(mirror)


def _run(world: World, settings: list[str], out: Path) -> dict[str, Any]:
    return train(world, settings, [Show(out)])


@pytest.mark.slow
@pytest.mark.distributed
def test_tuples_of_a_run_are_counted_alike_on_any_number_of_ranks(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=8, per_label=4, shards=2, size=32)
    model = [
        "model={backbone: 'timm:test_resnet', weights: none}",
        "images.size=32",
        "loader.workers=0",
        "trouble.quick_images=0",
    ]
    plan = ["tuples={per_step: 4, per_epoch: 8}", "mining.negatives=2", "epochs=2", "optim.lr=1e-4", "evaluation.strips=3"]
    found = []
    for size in (1, 2):
        out = tmp_path / str(size)
        out.mkdir()
        settings = [f"corpus={corpus}", *model, *plan, "tracking={wandb: 'off', every: 1}", f"runs={out}"]
        run_world(size, _run, settings, out)
        lines = [json.loads(line) for line in (out / "default" / "log.jsonl").read_text().splitlines()]
        found.append([line for line in lines if "train/positive_distances" in line])
        assert all(line["train/gem_exponent"] == pytest.approx(3, abs=0.1) for line in lines if "train/loss" in line)
        tables = sorted(out.glob("pictures-hardest-*.json"))
        assert len(tables) == 2  # one an epoch
        rows = json.loads(tables[0].read_text())
        margins = [row["nearest negative"] - row["positive"] for row in rows]
        assert margins == sorted(margins)
        assert len(rows) == min(3, 4 // size)
        assert all(row["strip"] == [96, 4 * 96, 3] and row["query"] for row in rows)
    for one, two in zip(*found, strict=True):
        assert one["step"] == two["step"]
        for name, total in (("train/positive_distances", 4), ("train/negative_distances", 8)):
            assert (one[name]["low"], one[name]["high"], sum(one[name]["counts"])) == (0, 2, total)
            assert np.abs(np.cumsum(one[name]["counts"]) - np.cumsum(two[name]["counts"])).max() <= 1  # edges of bins
