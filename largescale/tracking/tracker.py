"""Collects the metrics of every rank and writes them as lines.

A metric is recorded on every rank and says how it is reduced over the steps of a line and over the ranks.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from largescale.tracking.chosen import open_mirrors
from largescale.tracking.config import TrackingConfig
from largescale.tracking.mirrors import Mirror, TrackedRun, catch_up
from largescale.tracking.record import Record, read_lines

if TYPE_CHECKING:
    from largescale.distributed import World


class Reduce(StrEnum):
    """How the values of several steps and ranks become one."""

    MEAN = "mean"
    SUM = "sum"
    MAX = "max"


class Tracker:
    """Collects the metrics of every rank and writes one line per `config.every` steps on rank 0."""

    def __init__(self, config: TrackingConfig, job: TrackedRun, world: "World") -> None:
        self.config, self.job, self.world = config, job, world
        self.recorded: dict[tuple[str, Reduce], list[float]] = {}
        self._record: Record | None = None  # on rank 0 alone, as the mirrors are
        self._mirrors: list[Mirror] = []
        self._lines = 0

    def open(self, state: Mapping[str, Any]) -> None:
        """Begin the record, or continue the one whose `state` a checkpoint holds. Called once, on every rank."""
        if not self.world.is_first:
            return
        path = self.job.directory / "log.jsonl"
        self._record = Record(path, state.get("position", 0))
        self._lines = sum(1 for _ in read_lines(path))
        self._mirrors = open_mirrors(self.config, self.job, state)
        for mirror in self._mirrors:
            catch_up(mirror, read_lines(path))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: how the mirrors go on, and the length of the record at this moment."""
        position = self._record.position() if self._record else 0
        return {mirror.key: mirror.id for mirror in self._mirrors} | {"position": position}

    def record(self, name: str, value: float, reduce: Reduce = Reduce.MEAN) -> None:
        """Add a value of this step and rank to the next line."""
        self.recorded.setdefault((name, reduce), []).append(value)

    def flush(self, step: int, epoch: float) -> dict[str, Any]:
        """Reduce what was recorded over steps and ranks, write it as one line, return it. Every rank calls this."""
        everyone = self.world.gather(self.recorded)
        self.recorded = {}
        values: dict[tuple[str, Reduce], list[float]] = {}
        for recorded in everyone:
            for key, numbers in recorded.items():
                values.setdefault(key, []).extend(numbers)
        return self.log(step, epoch, {name: _reduce(reduce, numbers) for (name, reduce), numbers in values.items()})

    def log(self, step: int, epoch: float, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write a line of values that are the same on every rank."""
        line = {"step": step, "epoch": epoch, **values}
        if self._record is not None:
            self._record.write(line)
            for mirror in self._mirrors:
                if self._lines >= mirror.known:
                    mirror.write(self._lines, line)
            self._lines += 1
        return line

    @property
    def shows_pictures(self) -> bool:
        """Whether a table of this rank is shown anywhere."""
        return any(mirror.shows_pictures for mirror in self._mirrors)

    def table(self, name: str, rows: list[Mapping[str, Any]]) -> None:
        """Show a table beside the line that was written last; pictures are arrays `(h, w, 3)` uint8 in the column `strip`."""
        for mirror in self._mirrors:
            if self._lines > mirror.known:
                mirror.table(self._lines - 1, name, rows)

    def curve(self, name: str, rows: list[Mapping[str, Any]], axes: tuple[str, str, str]) -> None:
        """As `table`, and as a chart: its columns along x, along y, and of each curve."""
        for mirror in self._mirrors:
            if self._lines > mirror.known:
                mirror.curve(self._lines - 1, name, rows, axes)

    def close(self) -> None:
        for opened in (self._record, *self._mirrors):
            if opened is not None:
                opened.close()


def _reduce(reduce: Reduce, numbers: list[float]) -> float:
    if reduce is Reduce.MAX:
        return max(numbers)
    total = sum(numbers)
    return total / len(numbers) if reduce is Reduce.MEAN else total
