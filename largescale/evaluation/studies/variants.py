"""Studies of what happens to descriptors: pooling, whitening, dimension, expansion, scales, distractors.

Every number is that of an evaluation with these settings. The descriptors of all variants come from one pass of the backbone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from largescale.distributed import World
from largescale.evaluation.config import SCALES, EvaluateConfig, ExpansionConfig
from largescale.evaluation.context import Context
from largescale.evaluation.descriptors.store import describe
from largescale.evaluation.report import charts
from largescale.evaluation.report.study import Cell, Study
from largescale.evaluation.results import ProtocolResult, scale, shown
from largescale.evaluation.stage import check_images, measure, seal
from largescale.evaluation.studies.config import DistractorsConfig, NeighborsConfig, PoolingConfig, ScalesConfig
from largescale.models.config import Pooling
from largescale.models.sharing.folder import Contents
from largescale.models.sharing.sources import of_network

POOLINGS: Mapping[str, Pooling] = {"GeM": "gem", "MAC": "mac", "SPoC": "spoc", "R-MAC": "rmac"}
WHITENING = {"pca": "PCA whitening", "learned": "learned whitening"}
Names = Mapping[str, Cell]


@dataclass(frozen=True)
class VariantLine:
    """What was measured with some settings."""

    names: Names
    """The settings, by the columns of the table."""
    results: Sequence[ProtocolResult]


def pooling(config: PoolingConfig, contents: Contents, world: World, should_stop: Callable[[], bool]) -> Study:
    networks = [of_network(contents.network.pooled(kind), {}) for kind in POOLINGS.values()]
    lines = []
    for name, stage in zip(POOLINGS, embedded(networks, [config] * len(networks), world, should_stop), strict=True):
        dim = stage.network.dim
        kinds: list[tuple[str, int | None]] = [
            ("none", None),
            *((kind, d) for kind in WHITENING for d in config.dims if d <= dim),
        ]
        for kind, kept in kinds:
            names: Names = {"pooling": name, "whitening": kind, "dimensions": kept or dim}
            lines.append(VariantLine(names, scored(stage, whitening=kind, dim=kept)))
    note = f"One backbone under four poolings. Whitening is fitted on {config.whitening_corpus}, for each pooling its own."
    return Study("pooling", "Pooling, whitening, dimension", note, _rows(lines), _pooling_plots(lines, dim))


def _pooling_plots(lines: Sequence[VariantLine], dim: int) -> dict[str, str]:
    """The poolings side by side, and over the dimensions."""
    plots = {}
    for number, protocol in enumerate(_protocols(lines)):
        whole = [line for line in lines if line.names["dimensions"] == dim]
        plots[f"{protocol}, {dim:,} dimensions"] = _plot(whole, number, "pooling", "whitening")
        for kind, name in WHITENING.items():
            some = [line for line in lines if line.names["whitening"] == kind]
            if some:
                plots[f"{protocol}, {name}"] = _plot(some, number, "dimensions", "pooling", doubling=True)
    return plots


def neighbors(config: NeighborsConfig, contents: Contents, world: World, should_stop: Callable[[], bool]) -> Study:
    (stage,) = embedded([contents], [config], world, should_stop)
    kinds = {"AQE": 0.0, f"αQE, α = {config.alpha:g}": config.alpha}
    settings = [(name, ExpansionConfig(neighbors=n, alpha=alpha)) for name, alpha in kinds.items() for n in config.neighbors]
    plain = VariantLine({"expansion": "none", "neighbors": 0}, scored(stage, query_expansion=None))
    lines = [VariantLine({"expansion": name, "neighbors": x.neighbors}, scored(stage, query_expansion=x)) for name, x in settings]
    plots = {
        protocol: _plot(lines, number, "neighbors", "expansion", level=("none", _score(plain.results[number])))
        for number, protocol in enumerate(_protocols(lines))
    }
    note = "A query is searched again after its best images were added to it; a query that is left out is no neighbor of itself."
    return Study("neighbors", "Number of neighbors of query expansion", note, _rows([plain, *lines]), plots)


def scales(config: ScalesConfig, contents: Contents, world: World, should_stop: Callable[[], bool]) -> Study:
    configs = [config.model_copy(update={"scales": name}) for name in SCALES]
    own = ("own",) if contents.whitening is not None else ()
    kinds = (*own, "none", *(WHITENING if config.whitening_corpus else ()))
    lines = []
    for (name, values), stage in zip(
        SCALES.items(), embedded([contents] * len(SCALES), configs, world, should_stop), strict=True
    ):
        shown = ", ".join(f"{scale:.3g}" for scale in values)
        lines += [
            VariantLine({"scales": name, "at": shown, "whitening": kind}, scored(stage, whitening=kind, dim=None))
            for kind in kinds
        ]
    plots = {protocol: _plot(lines, number, "scales", "whitening") for number, protocol in enumerate(_protocols(lines))}
    note = "Each image is described once per scale; the descriptors of a setting are its scales' mean."
    return Study("scales", "A single scale against several", note, _rows(lines), plots)


def distractors(config: DistractorsConfig, contents: Contents, world: World, should_stop: Callable[[], bool]) -> Study:
    (stage,) = embedded([contents], [config], world, should_stop)
    results = scored(stage)
    lines = [
        VariantLine({"distractors": point.distractors}, [replace(x, metrics=x.distractor_curve[i].metrics) for x in results])
        for i, point in enumerate(results[0].distractor_curve)
    ]
    plots = {result.protocol: charts.distractor_curve({result.protocol: result}) for result in results}
    note = "Each number of distractors holds the ones before; they join in an order drawn from their fingerprint."
    return Study("distractors", "Among distractors", note, _rows(lines), plots)


def embedded(
    networks: Sequence[Contents], configs: Sequence[EvaluateConfig], world: World, should_stop: Callable[[], bool]
) -> list[Context]:
    """Evaluations whose descriptors are sealed: each image was decoded once, and went through the backbone once at each scale.

    Args:
        networks: that of each configuration; they have one backbone.

    Raises:
        UserError, StoppedError: as `evaluate`.
    """
    opened = [Context.open(net, config, world, should_stop) for net, config in zip(networks, configs, strict=True)]
    for context in opened:
        check_images(context)
    for role in opened[0].sets:
        wanted = {x.directory: (context.network, x) for context in opened for x in context.sets[role]}.values()
        describe([net for net, _ in wanted], [x for _, x in wanted], opened[0].embedder, world)
    for context in opened:
        seal(context)
    return opened


def scored(context: Context, **rules: Any) -> list[ProtocolResult]:
    """Under other settings of `score`, which hold for every test set."""
    score = context.config.score.model_copy(update=rules)
    return measure(replace(context, config=context.config.model_copy(update={"score": score, "tuned": {}})))


def _rows(lines: Sequence[VariantLine]) -> list[dict[str, Cell]]:
    return [{**line.names, **_cells(line.results)} for line in lines]


def _cells(results: Sequence[ProtocolResult]) -> dict[str, Cell]:
    """The main metric of each protocol with its interval."""
    cells: dict[str, Cell] = {}
    for result in results:
        name = f"{result.protocol} {result.main}" if len(results) > 1 else result.main
        score = result.metrics[result.main]
        ends = f"{shown(result.main, score.low)} to {shown(result.main, score.high)}"
        cells |= {name + _unit(result): _score(result), f"{name} 95 %": ends}
    return cells


def _protocols(lines: Sequence[VariantLine]) -> list[str]:
    return [result.protocol for result in lines[0].results]


def _unit(result: ProtocolResult) -> str:
    return "" if scale(result.main) == 1 else " %"


def _score(result: ProtocolResult) -> float:
    return scale(result.main) * result.metrics[result.main].value


def _plot(lines: Sequence[VariantLine], number: int, x: str, curve: str, **options: Any) -> str:
    """The main metric of a protocol over the column `x`, a curve for each value of the column `curve`."""
    curves: dict[str, list[tuple[Any, float]]] = {}
    for line in lines:
        curves.setdefault(str(line.names[curve]), []).append((line.names[x], _score(line.results[number])))
    result = lines[0].results[number]
    return charts.lines(curves, x, f"{result.main}{_unit(result)}", **options)
