"""Turns `results.json` and the query records of an evaluation into pages."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from largescale.commit import write_text
from largescale.evaluation.report import charts
from largescale.evaluation.report.pictures import Pictures, of_neighbour, of_query, path
from largescale.evaluation.results import Interval, ProtocolResult, QueryRecord, Results, read_records, read_results

PER_PAGE = 100
MARKS = {"right": "✓", "wrong": "✗", "junk": "○", "distractor": "◆", "self": "="}
FILES = ("report.css", "report.js")


@dataclass(frozen=True)
class Page:
    """Up to `PER_PAGE` queries of a protocol."""

    number: int
    file: str
    records: list[QueryRecord]
    worst: float | None
    best: float | None


def write_report(directory: Path, pictures: Pictures | None = None) -> Path:
    """Write `directory/report` from the results in `directory`; the path of its first page.

    Args:
        pictures: where the images are; None where only descriptors were given: names stand in their place.
    """
    results, report = read_results(directory), directory / "report"
    report.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(Path(__file__).parent / "templates" / name, report / name)
    pages = {result.protocol: list(_pages(directory, result)) for result in results.protocols}
    if pictures is not None:
        records = [record for protocol in pages.values() for page in protocol for record in page.records]
        pictures.write(report, [of_query(record) for record in records] + [of_neighbour(n) for r in records for n in r.top])
    environment = _environment(pictures)
    for result in results.protocols:
        for page in pages[result.protocol]:
            _render(environment, "queries.html", report / page.file, result=result, page=page, pages=pages[result.protocol])
    _render(environment, "index.html", report / "index.html", results=results, pages=pages, plots=_plots(results))
    return report / "index.html"


def _pages(directory: Path, result: ProtocolResult) -> Iterator[Page]:
    """Queries from the lowest AP to the highest; those without positives come last."""
    records = sorted(read_records(directory / result.records), key=lambda record: (record.ap is None, record.ap, record.key))
    for number, start in enumerate(range(0, len(records), PER_PAGE), start=1):
        part = records[start : start + PER_PAGE]
        aps = [record.ap for record in part if record.ap is not None]
        name = result.protocol.replace("/", "-")
        yield Page(number, f"{name}-{number}.html", part, min(aps, default=None), max(aps, default=None))


def _plots(results: Results) -> dict[str, dict[str, str]]:
    """Title -> SVG, for each protocol."""
    plots = {}
    for result in results.protocols:
        plots[result.protocol] = {
            "Precision and recall": charts.precision_recall(result.precision_recall),
            "Similarities": charts.histogram(result.histogram),
        }
        if len(result.distractor_curve) > 1:
            plots[result.protocol]["Among distractors"] = charts.distractor_curve(result)
    return plots


def _environment(pictures: Pictures | None) -> Environment:
    loader = PackageLoader("largescale.evaluation.report", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "interval": _interval}
    environment.globals |= {
        "marks": MARKS,
        "has_pictures": pictures is not None,
        "query_picture": lambda record: path(of_query(record)),
        "picture": lambda neighbour: path(of_neighbour(neighbour)),
        "box": pictures.box if pictures is not None else lambda record: None,
    }
    return environment


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _interval(interval: Interval) -> str:
    return f"{100 * interval.low:.2f} – {100 * interval.high:.2f}"


def _render(environment: Environment, template: str, file: Path, **values: object) -> None:
    write_text(file, environment.get_template(template).render(**values))
