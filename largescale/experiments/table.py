"""The table of an experiment: mean and spread over seeds, and what each method gains over the reference, query by query."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from largescale.commit import write_json, write_text
from largescale.evaluation.results import ProtocolResult, QueryRecord, read_records, read_results
from largescale.evaluation.statistics import Comparison, compare, holm
from largescale.experiments.config import ExperimentConfig
from largescale.experiments.runs import Run
from largescale.settings import UserError


@dataclass(frozen=True)
class Row:
    """A method."""

    method: str
    images: int
    """That each training saw, negatives included."""
    values: dict[str, list[float]]
    """Each metric of each seed."""
    gain: Comparison | None
    """Over the reference, by the first metric, each query's mean over seeds; None for the reference itself."""
    holm: float | None
    """The p of the gain, adjusted for the number of methods."""

    def mean(self, metric: str) -> float:
        return float(np.mean(self.values[metric]))

    def spread(self, metric: str) -> float:
        """Standard deviation over seeds; NaN for one."""
        values = self.values[metric]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def table_of(config: ExperimentConfig, runs: Sequence[Run]) -> list[Row]:
    """A row per method, the best first.

    Args:
        runs: finished ones, of every method from the same seeds.
    """
    done = {method: [run for run in runs if run.method == method] for method in config.methods}
    base = _per_query(done[config.reference], config.metrics[0])
    gains = {m: _gain(base, _per_query(own, config.metrics[0])) for m, own in done.items() if m != config.reference}
    adjusted = dict(zip(gains, holm([gain.p for gain in gains.values()]), strict=True))
    rows = [_row(method, own, config.metrics, gains.get(method), adjusted.get(method)) for method, own in done.items()]
    return sorted(rows, key=lambda row: -row.mean(config.metrics[0]))


def _row(method: str, runs: Sequence[Run], metrics: Sequence[str], gain: Comparison | None, p: float | None) -> Row:
    found = [_protocol(run).metrics for run in runs]
    missing = [metric for metric in metrics if metric not in found[0]]
    if missing:
        raise UserError(f"metrics: the protocol has no {missing[0]}; it has {', '.join(found[0])}")
    return Row(method, runs[0].images, {metric: [own[metric].value for own in found] for metric in metrics}, gain, p)


def _protocol(run: Run) -> ProtocolResult:
    """The first of the evaluation: corpora of labels have one."""
    return read_results(run.evaluate.out).protocols[0]


def _per_query(runs: Sequence[Run], metric: str) -> dict[str, tuple[str, float]]:
    """Label and mean over seeds of each query, by its key."""
    records = [list(read_records(run.evaluate.out / _protocol(run).records)) for run in runs]
    return {own[0].key: (own[0].label, _mean(own, metric)) for own in zip(*records, strict=True) if own[0].ap is not None}


def _mean(records: Sequence[QueryRecord], metric: str) -> float:
    return float(np.mean([record.metrics[metric] for record in records]))


def _gain(base: dict[str, tuple[str, float]], other: dict[str, tuple[str, float]]) -> Comparison:
    labels, values = zip(*base.values(), strict=True)
    return compare(np.array(values), np.array([other[key][1] for key in base]), np.array(labels))


def write_table(config: ExperimentConfig, rows: Sequence[Row]) -> Path:
    """`table.md` and `table.json` in the folder of the experiment."""
    folder = config.out / config.name
    write_json(folder / "table.json", {"reference": config.reference, "methods": [asdict(row) for row in rows]})
    write_text(folder / "table.md", markdown(config, rows))
    return folder / "table.md"


def markdown(config: ExperimentConfig, rows: Sequence[Row]) -> str:
    """Percentages."""
    seeds, main = len(next(iter(rows[0].values.values()))), config.metrics[0]
    head = ["method", "images", *config.metrics, f"{main} - {config.reference}", "95 %", "p (Holm)"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *[_cells(row, config.metrics) for row in rows]]
    note = (
        f"Mean and standard deviation over {seeds} seeds, in percent. Differences are of the means over seeds, paired by query; "
        "their 95 % intervals and p are over queries, clustered by label (bootstrap, sign flips), and say nothing of other seeds."
    )
    return "\n".join([f"# {config.name}", "", *(f"| {' | '.join(line)} |" for line in lines), "", note, ""])


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    scores = [_score(row, metric) for metric in metrics]
    if row.gain is None:
        return [row.method, f"{row.images:,}", *scores, "", "", ""]
    gain = row.gain
    ends = f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f}"
    return [row.method, f"{row.images:,}", *scores, f"{100 * gain.difference:+.2f}", ends, f"{row.holm:.4f}"]


def _score(row: Row, metric: str) -> str:
    mean, spread = 100 * row.mean(metric), 100 * row.spread(metric)
    return f"{mean:.2f}" if np.isnan(spread) else f"{mean:.2f} ± {spread:.2f}"
