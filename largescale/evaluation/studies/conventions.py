"""One file of rankings under many conventions: average precision, precision and recall by each protocol and by other tools.

Every score is taken twice: among images of equal score the wrong ones come first in the file, then the right ones. Where the
two differ, a tool's score depends on an order that says nothing.

n images of a query
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from largescale.evaluation.protocol.metrics import evaluate_rankings
from largescale.evaluation.protocol.protocols import LABELS, Protocol, landmark_protocols
from largescale.evaluation.report.study import Cell, Study
from largescale.evaluation.studies.config import ConventionsConfig
from largescale.evaluation.studies.peers import FORMULAS, PACKAGES, Means, Ranking, installed
from largescale.settings import UserError

TYPES = {"query": pa.string(), "image": pa.string(), "score": pa.float64(), "relevant": pa.int8()}
RIGHT, JUNK = 1, -1


def compare_tools(config: ConventionsConfig) -> Study:
    table = read_rankings(config.scores)
    first, last = score(table, config.k, right_first=False), score(table, config.k, right_first=True)
    rows: list[dict[str, Cell]] = [
        {"measure": measure, "by": tool, "wrong first %": 100 * value, "right first %": 100 * last[measure, tool]}
        for (measure, tool), value in sorted(first.items())
    ]
    left_out = [name for name in PACKAGES if name not in installed()]
    note = f"k = {config.k}; junk is taken out before other packages see a ranking."
    if left_out:
        note += f" Not installed, and left out: {', '.join(left_out)}."
    return Study("conventions", f"Conventions on {config.scores.name}", note, rows)


def read_rankings(file: Path) -> pa.Table:
    """Columns as in `TYPES`.

    Raises:
        UserError: no such file, no such columns, or what cannot be scored.
    """
    try:
        if file.suffix == ".parquet":
            table = pa.parquet.read_table(file, columns=list(TYPES))
        else:
            options = pa.csv.ConvertOptions(column_types=TYPES, include_columns=list(TYPES), null_values=[""])
            table = pa.csv.read_csv(file, convert_options=options)
        table = table.select(list(TYPES)).cast(pa.schema(TYPES))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{file}: expected CSV or Parquet with the columns {', '.join(TYPES)}; {error}") from None
    _check(table, file)
    return table


def _check(table: pa.Table, file: Path) -> None:
    if not len(table):
        raise UserError(f"{file} has no rows: there is nothing to score")
    relevant = set(pc.unique(table["relevant"]).to_pylist())
    if not relevant <= {RIGHT, 0, JUNK}:
        raise UserError(f"{file}: relevant is 1 (right), 0 (wrong) or -1 (junk); found {sorted(map(str, relevant))}")
    if pc.any(pc.is_nan(table["score"])).as_py():
        raise UserError(f"{file}: a score is NaN, which has no place in a ranking; leave empty what was not found")
    pairs = table.group_by(["query", "image"]).aggregate([([], "count_all")])
    if len(pairs) < len(table):
        twice = pairs.filter(pc.greater(pairs["count_all"], 1)).slice(0, 1).to_pylist()[0]
        raise UserError(f"{file} has image {twice['image']} twice for query {twice['query']}: keep one")


def score(table: pa.Table, k: int, right_first: bool) -> Mapping[tuple[str, str], float]:
    """(measure, tool) -> mean over queries, as the tool takes it."""
    ordered = [_order(rows, right_first) for rows in _queries(table)]
    rankings = [_without_junk(rows) for rows in ordered if (rows["relevant"].to_numpy() != JUNK).any()]
    tools: dict[str, Means] = {name: formula(rankings, k) for name, formula in FORMULAS.items()}
    for name in installed():
        tools[f"{name} {version(name)}"] = PACKAGES[name][1](rankings, k)
    tools |= ours(list(_queries(table)), k)
    return {(measure, tool): value for tool, means in tools.items() for measure, value in means.items()}


def ours(queries: Sequence[pa.Table], k: int) -> dict[str, Means]:
    """Each protocol; among equal scores the wrong images come first, in whatever order they are given."""
    rankings = [_order(rows, right_first=False) for rows in queries]
    landmark = {"AP": "map_trapezoid", "precision at k": f"precision_at_{k}_cut", "any at k": f"recall_at_{k}"}
    labels = {"AP": "map_rectangle", "AP at R": "map_at_r", "precision at k": f"precision_at_{k}", "any at k": f"recall_at_{k}"}
    return {
        "ours: Oxford, Paris, Holidays": _means(rankings, landmark_protocols("oxford5k", crop=True)[0], landmark),
        "ours: labels": _means(rankings, LABELS, labels),
        "ours: Google Landmarks, ILIAS": _means(rankings, landmark_protocols("ilias", crop=False)[0], {"AP at k": f"map_at_{k}"}),
    }


def _means(rankings: Sequence[pa.Table], protocol: Protocol, names: Mapping[str, str]) -> Means:
    """Over the queries that have a positive."""
    protocol = replace(protocol, positive=("right",), junk=("junk",), metrics=tuple(names.values()))
    values = [_evaluate(rows, protocol) for rows in rankings]
    return {measure: float(np.nanmean([row[name] for row in values] or [np.nan])) for measure, name in names.items()}


def _evaluate(rows: pa.Table, protocol: Protocol) -> Mapping[str, float]:
    found = len(rows) - rows["score"].null_count
    relevant = rows["relevant"].to_numpy()
    truth = {"right": np.flatnonzero(relevant == RIGHT).tolist(), "junk": np.flatnonzero(relevant == JUNK).tolist()}
    return evaluate_rankings(np.arange(found)[:, None], [truth], protocol).mean


def _queries(table: pa.Table) -> Iterator[pa.Table]:
    for query in pc.unique(table["query"]):
        yield table.filter(pc.equal(table["query"], query))


def _order(rows: pa.Table, right_first: bool) -> pa.Table:
    """By decreasing score; what was not found comes last."""
    order = "descending" if right_first else "ascending"
    return rows.sort_by([("score", "descending"), ("relevant", order)])


def _without_junk(rows: pa.Table) -> Ranking:
    rows = rows.filter(pc.not_equal(rows["relevant"], JUNK))
    score = rows["score"].drop_null().to_numpy()
    return Ranking(rows["query"][0].as_py(), rows["image"].to_pylist(), score, rows["relevant"].to_numpy() == RIGHT)
