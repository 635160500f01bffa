"""The learning-rate range test."""

import json
from pathlib import Path
from typing import Any

import pytest

from largescale.config import load
from largescale.distributed import World
from largescale.training.build import build_trainer
from largescale.training.rates import RateRange, RatesConfig, suggested, table
from tests.corpora import make_corpus
from tests.world import run_world


def test_a_tenth_of_the_best() -> None:
    assert suggested([1e-5, 1e-4, 1e-3], [3.0, 1.0, 2.0]) == pytest.approx(1e-5)
    assert table([1e-5, 1e-3], [2.0, 1.0]).splitlines()[0].endswith("2.0000 " + "=" * 40)


def _find(world: World, arguments: list[str]) -> int:
    trainer = build_trainer(load(RatesConfig, arguments).trial(), world, last=[RateRange()])
    trainer.begin()
    trainer.fit()
    return trainer.progress.step


@pytest.mark.slow
@pytest.mark.distributed
def test_rates_grow_until_the_loss_rises(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=6, per_label=4, size=32)
    plan = [
        "loss.name=calibration",
        "batches={classes_per_batch: 4, images_per_class: 2}",
        "range={low: 1e-5, high: 10, steps: 12}",
    ]
    model = ["model={backbone: 'timm:test_resnet', weights: none}", "images.size=32", "loader.workers=0"]
    arguments = [f"corpus={corpus}", f"runs={tmp_path}", "name=r", *plan, *model, "range={low: 1e-5, high: 10, steps: 12}"]
    steps = run_world(1, _find, arguments)[0]
    found: dict[str, Any] = json.loads((tmp_path / "r-rates" / "rates.json").read_text())
    assert found["rates"][:2] == pytest.approx([1e-5, 1e-5 * 1e6 ** (1 / 11)])
    log = [json.loads(line) for line in (tmp_path / "r-rates" / "log.jsonl").read_text().splitlines()]
    taken = [line["train/learning_rate"] for line in log if "train/learning_rate" in line]
    assert taken[: len(found["rates"])] == pytest.approx(found["rates"])
    assert len(found["rates"]) in (steps - 1, 12)
    assert 1e-6 <= found["rate"] <= 1
