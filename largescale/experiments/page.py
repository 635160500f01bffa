"""The page of an experiment: its table, and a plot of each column over what varies, or over the methods. S seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from largescale.evaluation.report.charts import COLORS, svg
from largescale.evaluation.report.site import Site
from largescale.evaluation.report.study import Study
from largescale.experiments.config import ExperimentConfig
from largescale.experiments.table import MethodRow, columns_of, note


def write_page(config: ExperimentConfig, rows: Sequence[MethodRow]) -> Path:
    """`table.html` in the folder of the experiment."""
    lines = [columns_of(config, row) for row in rows]
    study = Study("table", config.name, note(config, rows), lines, plots(config, rows))
    return Site(config.out / config.name, None).page("study.html", "table.html", study=study)


def plots(config: ExperimentConfig, rows: Sequence[MethodRow]) -> dict[str, str]:
    """Title -> SVG: each metric over its seeds, and the seconds of an epoch with its mining."""
    columns = {f"{name} (%)": [[100 * value for value in row.values[name]] for row in rows] for name in config.metrics}
    columns["seconds of an epoch, with mining"] = [np.sum(list(row.seconds.values()), 0).tolist() for row in rows]
    return {title: _plot(config, rows, own, title) for title, own in columns.items()}


def _plot(config: ExperimentConfig, rows: Sequence[MethodRow], columns: Sequence[list[float]], title: str) -> str:
    draw = _over_values if config.vary else _over_methods
    return svg(lambda axes: draw(axes, config, rows, columns, title))


def _over_methods(
    axes: Axes, config: ExperimentConfig, rows: Sequence[MethodRow], columns: Sequence[list[float]], title: str
) -> None:
    """A line for each method: its seeds `(S,)` as dots, their mean as a stroke."""
    for place, own in enumerate(columns):
        axes.plot(own, [place] * len(own), "o", markersize=3, color=COLORS[0])
        axes.plot(np.mean(own), place, "|", markersize=14, color=COLORS[1])
    axes.set_yticks(range(len(rows)), [row.point.method for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(title)


def _over_values(
    axes: Axes, config: ExperimentConfig, rows: Sequence[MethodRow], columns: Sequence[list[float]], title: str
) -> None:
    """A curve for each method over numbers; over names, points side by side."""
    assert config.vary is not None
    values = config.vary.values
    numeric = all(not isinstance(value, str) for value in values)
    for number, method in enumerate(config.methods):
        own = [column for row, column in zip(rows, columns, strict=True) if row.point.method == method]
        means = [float(np.mean(seeds)) for seeds in own]
        spreads = [float(np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0 for seeds in own]
        places = values if numeric else np.arange(len(values)) + 0.12 * (number - (len(config.methods) - 1) / 2)
        color, line = COLORS[number % len(COLORS)], "-" if numeric else ""
        axes.errorbar(places, means, spreads, label=method, marker="o", markersize=4, capsize=3, color=color, linestyle=line)
    if not numeric:
        axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set(xlabel=config.vary.setting, ylabel=title)
    axes.legend(frameon=False, fontsize=8)
