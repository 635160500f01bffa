"""Pages that show two evaluations side by side: what B gains, and both rankings of every query."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from largescale.commit import claim_folder
from largescale.evaluation.report import charts
from largescale.evaluation.report.pages import pictures_of
from largescale.evaluation.report.pictures import of_record
from largescale.evaluation.report.site import PER_PAGE, Site
from largescale.evaluation.results import QueryRecord
from largescale.evaluation.scoring.compare import Compared, ProtocolPair


@dataclass(frozen=True)
class Query:
    """A query that was asked twice."""

    a: QueryRecord
    b: QueryRecord
    gain: float
    """Of the main metric."""


@dataclass(frozen=True)
class ComparisonPage:
    """Up to `PER_PAGE` queries of a protocol."""

    number: int
    folder: str
    file: str
    queries: list[Query]

    @property
    def largest(self) -> float:
        return abs(self.queries[0].gain)

    @property
    def smallest(self) -> float:
        return abs(self.queries[-1].gain)


def write_comparison(pairs: Sequence[ProtocolPair], lines: Sequence[Compared], directory: Path) -> Path:
    """Write the pages into `directory`; the path of the first.

    Args:
        lines: of `compare_results`.

    Raises:
        UserError: the folder holds something that is not ours.
    """
    claim_folder(directory, "comparison", "OUT")
    shown = [_queries(pair) for pair in pairs]
    pages = [list(_pages(pair, number, queries)) for number, (pair, queries) in enumerate(zip(pairs, shown, strict=True))]
    for pair, own, queries in zip(pairs, pages, shown, strict=True):
        site = Site(directory / _folder(pair), pictures_of(pair.a.results))
        site.thumbnails(picture for query in queries for record in (query.a, query.b) for picture in of_record(record))
        for page in own:
            site.page("compared.html", page.file, pair=pair, page=page, pages=own)
    sources = {"A": pairs[0].a.results.source, "B": pairs[0].b.results.source}
    plots = [_plots(pair, queries) for pair, queries in zip(pairs, shown, strict=True)]
    site = Site(directory, None)
    return site.page("comparison.html", "index.html", sources=sources, pairs=pairs, lines=lines, pages=pages, plots=plots)


def _folder(pair: ProtocolPair) -> str:
    """One per data set: image ids are those of its corpora."""
    return hashlib.sha256("/".join(pair.a.key[4:]).encode()).hexdigest()[:8]


def _queries(pair: ProtocolPair) -> list[Query]:
    """The largest difference first."""
    queries = [Query(a, b, b.metrics[pair.metric] - a.metrics[pair.metric]) for a, b in pair.records()]
    return sorted(queries, key=lambda query: (-abs(query.gain), query.a.key))


def _pages(pair: ProtocolPair, number: int, queries: Sequence[Query]) -> Iterator[ComparisonPage]:
    for page, start in enumerate(range(0, len(queries), PER_PAGE), start=1):
        yield ComparisonPage(page, _folder(pair), f"{number}-{page}.html", list(queries[start : start + PER_PAGE]))


def _plots(pair: ProtocolPair, queries: Sequence[Query]) -> dict[str, str]:
    """Title -> SVG."""
    a, b = pair.a.protocol, pair.b.protocol
    plots = {
        "Gain of B, query by query": charts.gains([query.gain for query in queries], pair.metric),
        "Precision and recall": charts.precision_recall({"A": a.precision_recall, "B": b.precision_recall}),
    }
    if len(a.distractor_curve) > 1:
        plots["Among distractors"] = charts.distractor_curve({"A": a, "B": b})
    return plots
