"""From scores to `results.json`: what was scored, with what, where, and how long each step took."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from largescale.distributed import World
from largescale.evaluation.context import Subject
from largescale.evaluation.results import ProtocolResult, Results, write_results
from largescale.evaluation.task import Task

T = TypeVar("T")


def publish(
    task: Task,
    protocols: list[ProtocolResult],
    subject: Subject,
    settings: Mapping[str, Any],
    tuned: bool,
    world: World,
    out: Path,
    seconds: dict[str, float],
) -> Results:
    results = Results(
        source=subject.source,
        digest=subject.digest,
        metadata=subject.metadata,
        preprocess=subject.preprocess,
        gallery=task.gallery.used,
        queries=task.queries,
        distractors=[described.used for described in task.distractors],
        protocols=protocols,
        machine=_machine(world),
        seconds=world.decide(lambda: seconds),
        score=settings,
        tuned=tuned,
    )
    world.decide(lambda: write_results(out, results))
    return results


def _machine(world: World) -> dict[str, Any]:
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else platform.processor() or "cpu"
    return {"processes": world.size, "device": device, "torch": torch.__version__, "numpy": np.__version__}


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)


def timed(seconds: dict[str, float], name: str, work: Callable[[], T]) -> T:
    with clock(seconds, name):
        return work()
