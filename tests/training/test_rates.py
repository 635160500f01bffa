"""The learning-rate range test."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.config import load
from largescale.distributed import World
from largescale.training.build import build_trainer
from largescale.training.rates import RateRange, RatesConfig, smoothed, suggested, table, verdict
from tests import programs
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT
from tests.world import run_world

RATES = np.geomspace(1e-6, 1e-1, 100).tolist()
NOISE = np.random.default_rng(0).normal(0, 0.02, 100)


def test_a_tenth_of_the_best() -> None:
    """Not of the first losses, which are those of single steps, and not below the range."""
    valley = 1 + np.abs(np.arange(100) - 60) / 100 + NOISE
    valley[0] = 0.5
    assert 1e-4 < (suggested(RATES, valley.tolist(), 10) or 0) < 3e-4
    early = np.repeat([2.0, 1.0, 3.0], [10, 4, 86])
    assert suggested(RATES, early.tolist(), 10) == RATES[0]


def test_no_rate_where_none_lowered_the_loss() -> None:
    for losses in (1 + np.arange(100) / 100, 1 + NOISE, 1 + np.arange(100) / 1000 + NOISE, np.ones(8)):
        assert suggested(RATES, losses.tolist(), 10) is None
    assert verdict(None, 100).startswith("no rate of the range lowered the loss")


def test_noise_alone_suggests_a_rate_in_few_ranges() -> None:
    draws = np.random.default_rng(0).normal(1, 0.1, size=(200, 100))
    found = [suggested(RATES, losses.tolist(), 10) for losses in draws]
    assert sum(rate is not None for rate in found) <= 12


def test_the_loss_is_smoothed_without_bias() -> None:
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smoothed([1.0, 2.0])[1] == pytest.approx((0.9 * 1 + 2) / 1.9)
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
    assert len(found["rates"]) in (steps - 1, steps)  # the last loss may not be finite
    assert found["rate"] is None or 1e-5 <= found["rate"] <= 1


@pytest.mark.slow
def test_rates_from_a_collapse_on_do_not_count_and_the_range_begins_anew(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=6, per_label=4, size=32)
    plan = ["loss={name: batch_hard, margin: 1}", "batches={classes_per_batch: 4, images_per_class: 2}", "range.steps=50"]
    model = ["model={backbone: 'timm:test_resnet', projection: 8, weights: none}", "images.size=32", "loader.workers=0"]
    flatten = "callbacks=[{name: 'tests.training.callbacks.health.test_trouble:Flatten', step: 20}]"
    command = [sys.executable, "launch/rates.py", f"corpus={corpus}", f"runs={tmp_path}", "name=r", *plan, *model, flatten]
    found = []
    for _ in range(2):
        done = programs.run([*command, "trouble.on_collapse=stop"], ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        assert "descriptors collapsed at rates from 1.1e-04 on, which do not count" in done.stdout
        assert not {"To score", "To go on"} & set(done.stdout.splitlines())
        found.append(json.loads((tmp_path / "r-rates" / "rates.json").read_text()))
        assert len(found[-1]["rates"]) == 20
    assert found[0] == found[1]
