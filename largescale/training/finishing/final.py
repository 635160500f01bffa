"""What a recipe ends with: its paper's evaluations of the finished run, and the paper's numbers beside ours."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largescale.commit import own_paths
from largescale.config import check, read_yaml
from largescale.distributed import StopSignal, World
from largescale.evaluation import evaluate
from largescale.evaluation.config import EvaluateConfig
from largescale.evaluation.report import mirror
from largescale.evaluation.results import Results, scale
from largescale.processes import StoppedError
from largescale.settings import UserError
from largescale.tracking import wanted
from largescale.training.checkpoints.checkpoint import NAME, best_of
from largescale.training.settings.recipe import FinalEvaluationConfig, TrainConfig

log = logging.getLogger(__name__)

SCORES = "score"


@dataclass(frozen=True)
class Final:
    """One evaluation of the finished run."""

    name: str
    settings: EvaluateConfig
    paper: Mapping[str, float]

    @property
    def missing(self) -> list[str]:
        """Corpora in local folders that are not there."""
        settings = self.settings
        named = [settings.gallery, settings.queries, settings.whitening_corpus, *settings.distractors]
        return [place for place in named if place and "://" not in place and not (Path(place) / "manifest.json").exists()]


def finals(config: TrainConfig) -> list[Final]:
    """The evaluations that the settings of a run name.

    Raises:
        UserError: a file that is not there, or settings that are not valid.
    """
    return [Final(name, _settings(config, name, final), final.paper) for name, final in config.evaluate.items()]


def _settings(config: TrainConfig, name: str, final: FinalEvaluationConfig) -> EvaluateConfig:
    folder = config.directory / SCORES
    of_run = {"loader": config.loader, "storage": config.storage, "precision": config.precision}
    values: dict[str, Any] = {**of_run, "store": folder / "descriptors"}
    return check(EvaluateConfig, values | read_yaml(final.file) | dict(final.settings) | {"out": folder / name})


def announce(config: TrainConfig, world: World) -> None:
    """Say before the run what of its evaluations would be left out: there is time to build it."""
    for final in finals(config):
        if final.missing and world.is_first:
            missing = " and ".join(final.missing)
            log.info("%s is scored at the end if %s is built by then (make shards)", final.name, missing)


def score(config: TrainConfig, world: World) -> None:
    """Evaluate the best weights of the run, or the last ones, and print a table. Every rank calls this."""
    if not config.evaluate:
        return
    signal = StopSignal(world)
    weights = world.decide(lambda: scored_weights(config.directory))
    found: dict[str, Results] = {}
    for final in finals(config):
        if world.any(bool(final.missing)):
            continue
        try:
            found[final.name] = evaluate(weights, final.settings, world, lambda: signal.received)
        except StoppedError:
            if world.is_first:
                log.info("stopped while scoring; the same command goes on")
            return
        if world.is_first and wanted(config.tracking):
            mirror(final.settings.out, None, config.tracking)
    if world.is_first:
        print(table(finals(config), found))


def scored_weights(directory: Path) -> Path:
    """Those with the best score of the run's own evaluations, else the last."""
    best = best_of(directory / "checkpoints")
    files = own_paths(directory / "weights", rf"{NAME}\.safetensors")
    named = directory / "weights" / f"step-{best.get('step', -1):06d}.safetensors"
    if not files:
        raise UserError(f"{directory / 'weights'} holds no weights to score")
    return named if named.exists() else files[-1]


def table(wanted: list[Final], found: Mapping[str, Results]) -> str:
    """A line per metric: the main ones of each evaluation and those that the paper reports."""
    lines = [f"{'evaluation':<22}{'metric':<40}{'ours':>8}{'paper':>8}"]
    for final in wanted:
        if final.name not in found:
            lines.append(f"{final.name:<22}not scored: {', '.join(final.missing)} is not there")
            continue
        ours = values(found[final.name])
        for metric in dict.fromkeys([*found[final.name].main_metrics(), *final.paper]):
            reported = f"{final.paper[metric]:8.2f}" if metric in final.paper else f"{'':>8}"
            lines.append(f"{final.name:<22}{metric:<40}{ours.get(metric, float('nan')):8.2f}{reported}")
    return "\n".join(lines)


def values(results: Results) -> dict[str, float]:
    """`{PROTOCOL/METRIC: as it is printed}`, among all distractors."""
    return {
        f"{protocol.protocol}/{name}": scale(name) * interval.value
        for protocol in results.protocols
        for name, interval in protocol.metrics.items()
    }
