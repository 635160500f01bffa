"""Turns `results.json` and the query records of an evaluation into pages."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from largescale.corpus.corpus import Corpus
from largescale.evaluation.report import charts
from largescale.evaluation.report.pictures import RankedPictures, of_missed, of_neighbor, of_record
from largescale.evaluation.report.site import PER_PAGE, Site
from largescale.evaluation.results import ProtocolResult, QueryRecord, Results, read_records, read_results
from largescale.settings import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """Up to `PER_PAGE` queries of a protocol."""

    number: int
    file: str
    records: list[QueryRecord]
    worst: float | None
    best: float | None


def write_report(directory: Path, pictures: RankedPictures | None = None) -> Path:
    """Write `directory/report` from the results in `directory`; the path of its first page.

    Args:
        pictures: where the images are; None where only descriptors were given: names stand in their place.
    """
    results, site = read_results(directory), Site(directory / "report", pictures)
    pages = {result.protocol: list(_pages(directory, result)) for result in results.protocols}
    records = [record for protocol in pages.values() for page in protocol for record in page.records]
    site.thumbnails(picture for record in records for picture in (*of_record(record), *map(of_missed, record.missed)))
    site.thumbnails(of_neighbor(suspect.row) for result in results.protocols for suspect in result.suspects.worst)
    for result in results.protocols:
        for page in pages[result.protocol]:
            site.page("queries.html", page.file, result=result, page=page, pages=pages[result.protocol])
    return site.page(
        "index.html",
        "index.html",
        results=results,
        pages=pages,
        asked={name: {r.id: (page.file, r) for page in protocol for r in page.records} for name, protocol in pages.items()},
        plots={result.protocol: _plots(result) for result in results.protocols},
    )


def _pages(directory: Path, result: ProtocolResult) -> Iterator[Page]:
    """Queries from the lowest AP to the highest; those without positives come last."""
    records = sorted(
        read_records(directory / result.records, result.records_checksum),
        key=lambda record: (record.ap is None, record.ap, record.key),
    )
    for number, start in enumerate(range(0, len(records), PER_PAGE), start=1):
        part = records[start : start + PER_PAGE]
        aps = [record.ap for record in part if record.ap is not None]
        name = result.protocol.replace("/", "-")
        yield Page(number, f"{name}-{number}.html", part, min(aps, default=None), max(aps, default=None))


def _plots(result: ProtocolResult) -> dict[str, str]:
    """Title -> SVG."""
    plots = {
        "Precision and recall": charts.precision_recall({"": result.precision_recall}),
        "Similarities": charts.histogram(result.histogram),
    }
    if len(result.distractor_curve) > 1:
        plots["Among distractors"] = charts.distractor_curve({"": result})
    return plots


def pictures_of(results: Results) -> RankedPictures | None:
    """The corpora that were scored, where they still are; None where descriptors came from a file."""
    if not results.preprocess:
        return None
    try:
        queries, gallery, *distractors = (
            Corpus.open(used.location) for used in (results.queries, results.gallery, *results.distractors)
        )
    except UserError as error:
        log.warning("no pictures: %s", error)
        return None
    return RankedPictures(queries, gallery, distractors)
