"""A study on one page: a table, and plots of it. The numbers are in `NAME.json` beside the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from largescale.commit import write_json
from largescale.evaluation.report.site import Site

Cell = str | int | float
SHOWN = 1000
"""Rows that people see."""


@dataclass(frozen=True)
class Study:
    """What was measured."""

    name: str
    title: str
    note: str
    """What one must know to read the table."""
    rows: Sequence[Mapping[str, Cell]]
    """By the names of the columns, which say the unit; the same ones in every row."""
    plots: Mapping[str, str] = field(default_factory=dict)
    """Title -> SVG."""

    @property
    def columns(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [not isinstance(self.rows[0][name], str) for name in self.columns]

    def cells(self) -> list[list[str]]:
        return [[shown(value) for value in row.values()] for row in self.rows[:SHOWN]]

    @property
    def about(self) -> str:
        """The note, and whether there are rows that nobody sees."""
        rest = f" The first {SHOWN:,} of {len(self.rows):,} rows; all are in {self.name}.json." if len(self.rows) > SHOWN else ""
        return self.note + rest

    def text(self) -> str:
        """The table for a terminal."""
        lines = [self.columns, *self.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = self.numeric
        return "\n".join(
            "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True))
            for line in lines
        )

    def write(self, directory: Path) -> Path:
        """Write the numbers and the page; the path of the page."""
        write_json(directory / f"{self.name}.json", {"title": self.title, "note": self.note, "rows": list(self.rows)})
        return Site(directory, None).page("study.html", f"{self.name}.html", study=self)


def shown(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
