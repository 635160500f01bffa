"""What every mirror of the record has in common."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """Who writes a record: how it is named and grouped in every mirror."""

    directory: Path
    settings: Mapping[str, Any]
    name: str
    group: str
    kind: Literal["train", "mining", "evaluation"] = "train"


class Mirror(Protocol):
    """A place that shows the lines of a record."""

    key: str
    """Its name in a checkpoint."""
    id: str | None
    """What a later process continues it by."""
    known: int
    """Lines that it had when it was opened; they are not sent again."""
    shows_pictures: bool

    def write(self, number: int, line: Mapping[str, Any]) -> None:
        """Show a line, the `number`-th of the record, counted from 0."""
        ...

    def table(self, number: int, name: str, rows: list[Mapping[str, Any]]) -> None:
        """Show a table beside a line; pictures are arrays `(h, w, 3)` uint8 in the column `strip`."""
        ...

    def curve(self, number: int, name: str, rows: list[Mapping[str, Any]], axes: tuple[str, str, str]) -> None:
        """Show a table beside a line, and as a chart: its columns along x, along y, and of each curve."""
        ...

    def close(self) -> None: ...


def catch_up(mirror: Mirror, lines: Iterable[Mapping[str, Any]]) -> int:
    """Show the lines that the mirror lacks; returns how many there are in all."""
    count = 0
    for number, line in enumerate(lines):
        if number >= mirror.known:
            mirror.write(number, line)
        count = number + 1
    return count


def histogram(counts: Sequence[float], low: float, high: float) -> dict[str, Any]:
    """A value of a line: how many fell into each of the equal bins between `low` and `high`."""
    return {"low": low, "high": high, "counts": [int(count) for count in counts]}


def is_histogram(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"low", "high", "counts"}


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a line, without where they were measured."""
    return {name: float(value) for name, value in line.items() if isinstance(value, Real) and name != "step"}
