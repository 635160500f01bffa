"""How long the stages of a mining pass take, and the processor cores that they may use."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from largescale.distributed import World, own_cores


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


@contextmanager
def own_threads() -> Iterator[None]:
    """Compute on this process's share of the cores: torchrun gives one thread to each, and too many wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(own_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
