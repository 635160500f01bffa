"""How long the stages of a mining pass take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from largescale.distributed import World


class Stages:
    """Seconds of each stage on this rank."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[stage] = time.perf_counter() - start

    def seconds(self, world: World) -> dict[str, float]:
        """Of the slowest rank, as `seconds_STAGE`, and of all stages together."""
        slowest = dict(zip(self._seconds, world.max(*self._seconds.values()), strict=True))
        return {f"seconds_{stage}": value for stage, value in slowest.items()} | {"seconds": sum(slowest.values())}
