"""Every recipe of today's networks trains, with a tiny model of timm of the same family in the place of its network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from largescale.config import load, read_yaml
from largescale.distributed import World
from largescale.training.build import build_trainer
from largescale.training.callbacks import Callback
from largescale.training.settings.recipe import TrainConfig
from tests.conftest import ROOT
from tests.corpora import make_corpus
from tests.distributed.runs import lines, losses
from tests.world import run_world

MODERN = ROOT / "configs/modern"
TINY = {"convnext_base": "test_convnext", "vit_base_patch14_reg4_dinov2": "test_vit", "vit_base_patch16_siglip_224": "test_vit3"}
RECIPES = {path.stem: [path] for path in sorted(MODERN.glob("*.yaml"))}
OVER = {name: [MODERN / "sop-infonce.yaml", MODERN / f"networks/{name}.yaml"] for name in ("convnext-b", "siglip2-b")}
"""A recipe with files that are laid over it."""
SMALL = (
    *("precision=fp32", "loader.workers=0", "tracking={wandb: 'off', every: 1}", "trouble.quick_images=0", "evaluation.every=0"),
    *("model.weights=none", "images.size=32", "epochs=1"),
)
STEPS = 2


class _Stop(Callback):
    def after_step(self, images: Any, outcome: Any) -> None:
        if self.trainer.progress.step == STEPS:
            self.trainer.stop("enough")


def _small(name: str, files: list[Path], corpus: Path, runs: Path) -> TrainConfig:
    """Small images, few of them in a step, chunks of eight where the recipe has chunks; all else is the recipe's."""
    values = [read_yaml(file) for file in files]
    backbone = values[-1]["model"]["backbone"].removeprefix("timm:").partition(".")[0]
    more = [f"model.backbone=timm:{TINY[backbone]}", f"corpus={corpus}", f"runs={runs}", f"name={name}"]
    more += ["tuples={per_step: 4, per_epoch: 8}"] if "tuples" in values[0] else ["batches.classes_per_batch=4"]
    more += ["engine.gradcache_chunk=8"] if "gradcache_chunk" in values[0].get("engine", {}) else []
    return load(TrainConfig, [*map(str, files), *SMALL, *more])


def _train(world: World, corpus: Path, runs: Path) -> None:
    for name, files in (RECIPES | OVER).items():
        trainer = build_trainer(_small(name, files, corpus, runs), world, last=[_Stop()])
        before = {key: x.clone() for key, x in trainer.evaluated_model().named_parameters() if x.requires_grad}
        trainer.begin()
        trainer.fit()
        still = [key for key, x in trainer.evaluated_model().named_parameters() if key in before and torch.equal(x, before[key])]
        assert not [key for key in still if before[key].ndim > 1], name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modern")
    names = [f"{'above' if label < 4 else 'below'}/{label}" for label in range(8)]
    corpus = make_corpus(folder / "corpus", labels=8, per_label=4, shards=1, size=40, names=names)
    run_world(1, _train, corpus, folder / "runs")
    return folder / "runs"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", RECIPES | OVER)
def test_it_trains(name: str, runs: Path) -> None:
    found = losses(runs / name)
    assert sorted(found) == list(range(1, STEPS + 1))
    assert np.isfinite([*found.values()]).all()
    mined = [line["mining/random_negatives"] for line in lines(runs / name) if "mining/random_negatives" in line]
    assert mined == ([0] if "infonce" in name or name in OVER else [])
