"""The table of an experiment: mean and spread over seeds, and what each method gains over the reference, query by query."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from largescale.commit import write_json, write_text
from largescale.evaluation.report.study import Cell
from largescale.evaluation.results import ProtocolResult, QueryRecord, read_records, read_results
from largescale.evaluation.scoring.statistics import Comparison, compare, holm
from largescale.experiments.config import ExperimentConfig, Point
from largescale.experiments.runs import ExperimentRun
from largescale.settings import UserError

STEPS, MINING = "epoch (s)", "mining (s)"


@dataclass(frozen=True)
class MethodRow:
    """A method, or a method at one value of what varies."""

    point: Point
    images: int
    """That each training saw, negatives included."""
    values: dict[str, list[float]]
    """Each metric of each seed."""
    seconds: dict[str, list[float]]
    """Of an epoch of each seed: its steps, and the mining before them."""
    gain: Comparison | None
    """Over the reference, by the first metric, each query's mean over seeds; None for the reference itself."""
    holm: float | None
    """The p of the gain, adjusted for the number of comparisons."""

    def mean(self, metric: str) -> float:
        return float(np.mean(self.values[metric]))


def table_of(config: ExperimentConfig, runs: Sequence[ExperimentRun]) -> list[MethodRow]:
    """A row per method, the best first; of a study in the order of its file.

    Args:
        runs: finished ones, from the same seeds of every point that is to be in the table, the reference among them.
    """
    points = dict.fromkeys(run.point for run in runs)
    done = {point: [run for run in runs if run.point == point] for point in points}
    queries = {point: _per_query(own, config.metrics[0]) for point, own in done.items()}
    gains = {p: _gain(queries[config.base(p)], queries[p]) for p in done if p != config.base(p)}
    adjusted = dict(zip(gains, holm([gain.p for gain in gains.values()]), strict=True))
    rows = [_row(own, config.metrics, gains.get(point), adjusted.get(point)) for point, own in done.items()]
    return rows if config.vary else sorted(rows, key=lambda row: -row.mean(config.metrics[0]))


def _row(runs: Sequence[ExperimentRun], metrics: Sequence[str], gain: Comparison | None, p: float | None) -> MethodRow:
    found = [_protocol(run).metrics for run in runs]
    missing = [metric for metric in metrics if metric not in found[0]]
    if missing:
        raise UserError(f"metrics: the protocol has no {missing[0]}; it has {', '.join(found[0])}")
    values = {metric: [own[metric].value for own in found] for metric in metrics}
    seconds = zip((STEPS, MINING), zip(*(run.seconds() for run in runs), strict=True), strict=True)
    return MethodRow(runs[0].point, runs[0].images, values, {name: list(own) for name, own in seconds}, gain, p)


def _protocol(run: ExperimentRun) -> ProtocolResult:
    """The first of the evaluation: corpora of labels have one."""
    return read_results(run.evaluate.out).protocols[0]


def _per_query(runs: Sequence[ExperimentRun], metric: str) -> dict[str, tuple[str, float]]:
    """Label and mean over seeds of each query, by its key."""
    scored = [(run.evaluate.out, _protocol(run)) for run in runs]
    records = [list(read_records(out / result.records, result.records_checksum)) for out, result in scored]
    return {own[0].key: (own[0].label, _mean(own, metric)) for own in zip(*records, strict=True) if own[0].ap is not None}


def _mean(records: Sequence[QueryRecord], metric: str) -> float:
    return float(np.mean([record.metrics[metric] for record in records]))


def _gain(base: dict[str, tuple[str, float]], other: dict[str, tuple[str, float]]) -> Comparison:
    labels, values = zip(*base.values(), strict=True)
    return compare(np.array(values), np.array([other[key][1] for key in base]), np.array(labels))


def write_table(config: ExperimentConfig, rows: Sequence[MethodRow]) -> Path:
    """`table.md` and `table.json` in the folder of the experiment."""
    folder = config.out / config.name
    write_json(folder / "table.json", {"reference": config.reference, "methods": [_plain(row) for row in rows]})
    write_text(folder / "table.md", markdown(config, rows))
    return folder / "table.md"


def _plain(row: MethodRow) -> dict[str, object]:
    values = asdict(row)
    return {**values.pop("point"), **values}


def markdown(config: ExperimentConfig, rows: Sequence[MethodRow]) -> str:
    lines = [columns_of(config, row) for row in rows]
    head = list(lines[0])
    body = [head, ["---", *["---:"] * (len(head) - 1)], *([str(cell) for cell in line.values()] for line in lines)]
    return "\n".join([f"# {config.name}", "", *(f"| {' | '.join(line)} |" for line in body), "", note(config, rows), ""])


def note(config: ExperimentConfig, rows: Sequence[MethodRow]) -> str:
    """What one must know to read the table."""
    seeds = len(next(iter(rows[0].values.values())))
    return (
        f"Mean and standard deviation over the seeds, of which there are {seeds}, in percent. Differences are of the means over "
        "seeds, paired by query; their 95 % intervals and p are over queries, clustered by label (bootstrap, sign flips), "
        "and say nothing of other seeds. Seconds are of an epoch's steps with the wait for images, and of the mining before "
        "them, on the machine at hand."
    )


def columns_of(config: ExperimentConfig, row: MethodRow) -> Mapping[str, Cell]:
    """A line of the table, percentages."""
    varied = {config.vary.setting: str(row.point.value)} if config.vary else {}
    scores = {metric: mean_and_spread([100 * value for value in row.values[metric]], 2) for metric in config.metrics}
    seconds = {name: mean_and_spread(values, 1) for name, values in row.seconds.items()}
    compared = zip((f"{config.metrics[0]} - {config.reference}", "95 %", "p (Holm)"), _compared(row), strict=True)
    return {"method": row.point.method, **varied, "images": f"{row.images:,}", **scores, **dict(compared), **seconds}


def _compared(row: MethodRow) -> tuple[str, str, str]:
    if row.gain is None:
        return "", "", ""
    gain = row.gain
    return f"{100 * gain.difference:+.2f}", f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f}", f"{row.holm:.4f}"


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation, which one value has not."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean
