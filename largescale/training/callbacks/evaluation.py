"""Evaluates the network between epochs, on all ranks; the score decides which checkpoint is the best."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from largescale.corpus.corpus import Corpus
from largescale.distributed import StopSignal
from largescale.evaluation import evaluate
from largescale.evaluation.config import EvaluateConfig
from largescale.evaluation.report.pictures import RankedPictures
from largescale.evaluation.report.strips import strip
from largescale.evaluation.results import AXES, ProtocolResult, Results, distractor_curve, read_records, shown
from largescale.models.sharing.sources import of_network
from largescale.processes import StoppedError
from largescale.training.callbacks.base import Callback
from largescale.training.callbacks.checkpointing import Checkpointing
from largescale.training.callbacks.fitted_whitening import FittedWhitening
from largescale.training.checkpoints.checkpoint import best_of
from largescale.training.settings.recipe import TrainConfig

log = logging.getLogger(__name__)


class Evaluation(Callback):
    """Results go to RUN/evaluation/step-000123; what is there already is read back."""

    def __init__(self, config: TrainConfig, signal: StopSignal, checkpointing: Checkpointing, whitening: FittedWhitening) -> None:
        self.config, self.signal, self.checkpointing, self.whitening = config, signal, checkpointing, whitening

    def at_epoch_boundary(self) -> None:
        trainer = self.trainer
        if trainer.stopping or not self.config.evaluation.is_due(trainer.progress.epoch, trainer.finished):
            return
        self.checkpointing.save()
        out = self.config.directory / "evaluation" / f"step-{trainer.progress.step:06d}"
        stage = stage_config(self.config, out)
        try:
            contents = of_network(trainer.evaluated_model(), {}, self.whitening.fitted)
            results = evaluate(contents, stage, trainer.world, lambda: self.signal.received)
        except StoppedError:
            trainer.stop("a stop signal while evaluating")
            return
        # large, and of weights that nobody scores again
        trainer.world.decide(lambda: shutil.rmtree(stage.out / "descriptors", ignore_errors=True))
        self._report(results, stage)

    def _report(self, results: Results, stage: EvaluateConfig) -> None:
        trainer = self.trainer
        score = float(np.mean([*results.main_metrics().values()]))
        best = self.checkpointing.checkpoints.mark_best(trainer.progress.step, score)
        highest = score if best else best_of(self.config.directory / "checkpoints").get("score", score)
        trainer.log(metrics(results) | {"eval/score": score, "eval/best_score": max(score, highest)})
        if trainer.world.is_first:
            found = ", ".join(f"{name} {shown(name.rpartition('/')[2], value)}" for name, value in results.main_metrics().items())
            log.info("step %s: %s%s", f"{trainer.progress.step:,}", found, ", the best so far" if best else "")
        if stage.distractors:
            trainer.tracker.curve("tables/distractor_curve", distractor_curve(results), AXES)
        if trainer.tracker.shows_pictures and self.config.evaluation.strips:
            trainer.tracker.table("pictures/rankings", list(self._rows(results.protocols[0], stage)))

    def _rows(self, protocol: ProtocolResult, stage: EvaluateConfig) -> Iterator[Mapping[str, Any]]:
        """A table of rankings: the query, its average precision, and its first images as one picture."""
        assert stage.gallery is not None
        gallery = Corpus.open(stage.gallery, stage.storage)
        queries = Corpus.open(stage.queries, stage.storage) if stage.queries else gallery
        pictures = RankedPictures(queries, gallery, [Corpus.open(location, stage.storage) for location in stage.distractors])
        for record in islice(
            read_records(stage.out / protocol.records, protocol.records_checksum), self.config.evaluation.strips
        ):
            yield {"query": record.key, "label": record.label, "ap": record.ap, "strip": strip(record, pictures)}


def stage_config(config: TrainConfig, out: Path) -> EvaluateConfig:
    """The stage's settings: images as they are after training, where the recipe says nothing else."""
    settings = config.evaluation
    return EvaluateConfig(
        gallery=settings.gallery,
        queries=settings.queries,
        distractors=settings.distractors,
        images=config.scored_images,
        loader=config.loader,
        storage=config.storage,
        precision=config.precision,
        out=out,
    )


def metrics(results: Results) -> dict[str, float]:
    """All metrics of all protocols, `{eval/PROTOCOL/METRIC: value}`."""
    found = {result.protocol: result.metrics for result in results.protocols}
    return {f"eval/{name}/{metric}": interval.value for name, scores in found.items() for metric, interval in scores.items()}
