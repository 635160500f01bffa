"""How far a program is: a bar on a terminal; in a log, a line every half minute."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

PAUSE_S = 30.0
Item = TypeVar("Item")


class Lines:
    """Stands in for a bar where nobody sees a redrawn line; says nothing of what is over before the first line is due."""

    def __init__(self, label: str, total: int | None, unit: str, initial: int, pause: float = PAUSE_S) -> None:
        self.label, self.total, self.unit, self.initial, self.pause = label, total, unit, initial, pause
        self.n, self.about, self.begun = initial, "", time.monotonic()
        self.told = self.begun

    def update(self, count: int = 1) -> None:
        self.n += count
        if time.monotonic() - self.told >= self.pause:
            self._tell()

    def set_postfix_str(self, about: str, refresh: bool = False) -> None:
        self.about = about

    def close(self) -> None:
        if self.told > self.begun:
            self._tell()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _tell(self) -> None:
        self.told = time.monotonic()
        rate = (self.n - self.initial) / (self.told - self.begun)
        number = f"{self.n:,} {self.unit}s"
        if self.total:
            number = f"{self.n:,} of {self.total:,} {self.unit}s ({self.n / self.total:.0%})"
        left = f", {_time(max(self.total - self.n, 0) / rate)} left" if self.total and rate > 0 else ""
        about = f", {self.about}" if self.about else ""
        print(f"{self.label}: {number}, {rate:,.1f}/s{left}{about}", file=sys.stderr, flush=True)


def progress_bar(label: str | None, total: int | None, unit: str, initial: int = 0, **options: Any) -> "tqdm | Lines":
    """
    Args:
        label: None: nothing is shown.
        unit: in the singular.
        options: of the bar.
    """
    if label is None or sys.stderr.isatty():
        shown: dict[str, Any] = {"unit": f" {unit}s", "disable": label is None, "mininterval": 0.5, "dynamic_ncols": True}
        return tqdm(desc=label, total=total, initial=initial, **shown, **options)
    return Lines(label, total, unit, initial)


def tracked(items: Iterable[Item], label: str, total: int | None, unit: str) -> Iterator[Item]:
    """The items, as they are asked for."""
    with progress_bar(label, total, unit) as bar:
        for item in items:
            yield item
            bar.update(1)


def _time(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
