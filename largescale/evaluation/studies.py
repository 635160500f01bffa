"""What launch/study.py measures, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largescale.distributed import World
from largescale.evaluation import anchors
from largescale.evaluation.config_studies import AnchorsConfig, StudyConfig
from largescale.evaluation.report.study import Study
from largescale.evaluation.stage import embed_task
from largescale.evaluation.task import Task
from largescale.settings import UserError


@dataclass(frozen=True)
class Embedder:
    """Embeds what a study needs, on all ranks; what is in the store already is not embedded again."""

    config: StudyConfig
    world: World
    should_stop: Callable[[], bool] = lambda: False

    @property
    def weights(self) -> Path:
        assert self.config.weights is not None
        return self.config.weights

    def task(self) -> Task:
        return embed_task(self.weights, self.config, self.world, self.should_stop)


def two_stage_search(config: AnchorsConfig, embedder: Embedder) -> Study:
    file = config.anchors or embedder.weights.with_suffix(".anchors.npy")
    if not file.exists():
        raise UserError(f"there are no anchors in {file}: train with loss.name=class_anchor, or give anchors=FILE.npy")
    task = embedder.task()
    return embedder.world.decide(lambda: anchors.measure_task(task, np.load(file), config.probes))


studies: Mapping[str, Callable[[Any, Embedder], Study]] = {"anchors": two_stage_search}
