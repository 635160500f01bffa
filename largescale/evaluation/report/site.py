"""What the pages of a report share: templates, style, numbers as text."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from largescale.commit import write_text
from largescale.evaluation.report import charts
from largescale.evaluation.report.pictures import Picture, RankedPictures, of_missed, of_neighbor, of_query
from largescale.evaluation.results import lost_by_compression, scale, shown
from largescale.evaluation.scoring.compare import chance

PER_PAGE = 100
MARKS = {"right": "✓", "wrong": "✗", "junk": "○", "distractor": "◆", "self": "="}
FILES = ("report.css", "report.js")


class Site:
    """A folder of pages that opens from disk."""

    def __init__(self, directory: Path, pictures: RankedPictures | None) -> None:
        self.directory, self.pictures = directory, pictures
        directory.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            write_text(directory / name, (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))
        loader = PackageLoader("largescale.evaluation.report", "templates")
        self.environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self.environment.filters |= {"percent": _percent, "curve": charts.small_curve, "chance": chance}
        self.environment.globals |= {
            "marks": MARKS,
            "shown": _shown,
            "scale": scale,
            "lost_by_compression": lost_by_compression,
            "has_pictures": pictures is not None,
            "query_picture": lambda record: self._picture(of_query(record)),
            "picture": lambda neighbor: self._picture(of_neighbor(neighbor)),
            "missed_picture": lambda missed: self._picture(of_missed(missed)),
            "box": pictures.box if pictures is not None else lambda record: None,
        }

    def thumbnails(self, wanted: Iterable[Picture]) -> None:
        if self.pictures is not None:
            self.pictures.write(self.directory, wanted)

    def _picture(self, picture: Picture) -> str:
        assert self.pictures is not None
        return self.pictures.path(picture)

    def page(self, template: str, name: str, **values: Any) -> Path:
        write_text(self.directory / name, self.environment.get_template(template).render(**values))
        return self.directory / name


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _shown(metric: str, *values: float | None) -> str:
    return " – ".join("–" if value is None else shown(metric, value) for value in values)
