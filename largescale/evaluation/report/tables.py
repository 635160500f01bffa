"""The report as tables of Weights & Biases: the scores, the worst queries of each protocol with their pictures, suspects."""

import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from largescale.evaluation.report.pictures import RankedPictures
from largescale.evaluation.report.strips import strip
from largescale.evaluation.results import AXES, ProtocolResult, Results, distractor_curve, read_records, read_results
from largescale.tracking import TrackedRun, TrackingConfig, WandbMirror

MOST = 500
"""Rows of a table; W&B shows no more than some thousands."""


def mirror(directory: Path, pictures: RankedPictures | None, config: TrackingConfig) -> None:
    """Log the results in `directory` as a W&B run; the same results again go to the same run.

    Args:
        pictures: where the images are; None: names alone.
    """
    results = read_results(directory)
    facts = {
        "name": directory.name,
        "source": results.source,
        "score": dict(results.score),
        "preprocess": dict(results.preprocess),
    }
    group = config.group or results.metadata.get("run") or directory.name  # beside the training, where weights name it
    job = TrackedRun(directory, facts, directory.name, group, "evaluation")
    run = WandbMirror(config, job, id=f"{results.digest[:16]}-{directory.name}")
    line = run.known
    try:
        run.write(line, {f"eval/{name}": value for name, value in results.main_metrics().items()})
        run.table(line, "scores", list(_scores(results)))
        run.curve(line, "tables/distractor_curve", distractor_curve(results), AXES)
        for protocol in results.protocols:
            run.table(line, f"queries/{protocol.protocol}", list(_queries(directory, protocol, pictures)))
            if protocol.suspects.worst:
                run.table(line, f"suspects/{protocol.protocol}", list(_suspects(protocol)))
    finally:
        run.close()


def _scores(results: Results) -> Iterator[Mapping[str, Any]]:
    for protocol in results.protocols:
        for point in protocol.distractor_curve:
            for metric, value in point.metrics.items():
                where = {"protocol": protocol.protocol, "distractors": point.distractors, "metric": metric}
                yield {**where, "value": value.value, "low": value.low, "high": value.high}


def _queries(directory: Path, protocol: ProtocolResult, pictures: RankedPictures | None) -> Iterator[Mapping[str, Any]]:
    """The worst first."""
    asked = (record for record in read_records(directory / protocol.records, protocol.records_checksum) if record.ap is not None)
    for record in heapq.nsmallest(MOST, asked, key=lambda record: (record.ap, record.key)):
        facts = {"query": record.key, "label": record.label, protocol.main: record.ap, "positives": record.positives}
        row = {**facts, "first hit": record.first_hit, "lowest positive": max((m.rank for m in record.missed), default=None)}
        yield row if pictures is None else {**row, "strip": strip(record, pictures)}


def _suspects(protocol: ProtocolResult) -> Iterator[Mapping[str, Any]]:
    """Distractors that stand before positives of several queries."""
    for suspect in protocol.suspects.worst:
        row = suspect.row
        facts = {"distractor": row.key, "corpus": row.corpus, "queries": suspect.queries}
        yield {**facts, "place": suspect.place + 1, "similarity": row.score}
