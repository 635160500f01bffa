"""Disturbances at random moments of every stage; the same work then goes on, and its end is compared with the undisturbed one."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

from tests.test_processes import ends, is_alive
from tests.torture import programs
from tests.torture.stages import Stage, stages
from tests.world import run_world, show_stacks, start_world

LIVES, SHORTER = 6, 0.9
PATIENCE_S, ENDS_S, SLOW_S = 20, 180, 600
"""How long a rank waits for another, as it finds the others and for each of its two groups; gloo waits five times as long for one
that dies as they meet."""
PROGRAMS = 0.06
"""Of the disturbances: kills of torchrun, whose ranks take seconds to import."""


def preload() -> None:
    """Let the fork server import, besides, what every member would import again, seconds each time."""
    server = forkserver._forkserver  # type: ignore[attr-defined]
    server.set_forkserver_preload([*server._preload_modules, "tests.torture.preload"])


def torture(
    name: str, stage: Stage, folder: Path, kills: int, pause_s: float = 1, cold: bool = False, seed: int = 0
) -> Counter[str]:
    """So many disturbances of a stage.

    Args:
        pause_s: how long the first of the processes that are stopped stands still; the others for a second.
        cold: processes import all that they need, so that they are disturbed as they import too.

    Raises:
        AssertionError: an end differs from the undisturbed one, a process hangs, or something is left behind.
    """
    moments, counts = random.Random(f"{seed} {name}"), Counter[str]()
    for calm in ("warm", "calm"):  # the first starts the fork server
        began = time.monotonic()
        _finish(stage, folder / calm, cold)
    span, expected = time.monotonic() - began, stage.found(folder / "calm")
    assert expected
    while counts["disturbed"] < kills:
        place = folder / "disturbed"
        for _ in range(LIVES):
            way = moments.choice(stage.ways)
            pause = pause_s if way == "paused" and not counts["paused"] else 1
            if counts["disturbed"] >= kills:
                break
            if not _disturb(stage, place, way, moments.uniform(0, span), pause, moments, cold):
                span *= SHORTER  # the machine is faster now than when the work was timed
                break
            counts["disturbed"] += 1
            counts[way] += 1
        _finish(stage, place)
        assert stage.found(place) == expected, f"{name}: the end differs from the undisturbed one, see {place}"
        assert list(place.rglob("*.partial")) == [], f"{name}: partial files are left behind"
        shutil.rmtree(place)
        counts["ends compared"] += 1
        print(f"{name}: {dict(counts)}", flush=True)
    return counts


def _finish(stage: Stage, place: Path, cold: bool = False) -> None:
    """The work, undisturbed, from where it is."""
    run_world(stage.ranks, stage.work, *stage.arguments(place), timeout_s=SLOW_S, patience_s=SLOW_S / 2, hashes=cold)


def _disturb(stage: Stage, place: Path, way: str, after: float, pause_s: float, moments: random.Random, cold: bool) -> bool:
    """Whether the work was still going on when it was disturbed."""
    arguments, before = stage.arguments(place), set(_descendants(os.getpid()))
    members, results = start_world(stage.ranks, stage.work, *arguments, hashes=cold, patience_s=PATIENCE_S + pause_s)
    end = time.monotonic() + after
    while time.monotonic() < end and any(member.is_alive() for member in members):
        time.sleep(0.005)
    alive = [member.pid for member in members if member.is_alive()]
    started = [pid for pid in _descendants(os.getpid()) if pid not in before]
    workers = [pid for pid in started if pid not in alive]
    chosen = {"worker": workers or alive}.get(way, alive)
    if way in ("one", "paused", "worker"):
        chosen = chosen[:: moments.choice((1, -1))][:1]
    if way == "paused":
        _pause(chosen, pause_s)
    else:
        _signal(chosen, signal.SIGKILL)
    for member in members:
        member.join(timeout=ENDS_S + pause_s)
        if member.is_alive():
            show_stacks(members)
            raise AssertionError(f"a process did not end {ENDS_S} s after another was disturbed ({way})")
    results.close()
    left = [pid for pid in {*started, *_descendants(os.getpid())} - before if not ends(pid)]
    assert not left, f"processes are left ({way}): {left}"
    return bool(alive)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, number)


def _pause(pids: list[int], seconds: float) -> None:
    _signal(pids, signal.SIGSTOP)
    time.sleep(seconds)
    _signal(pids, signal.SIGCONT)


def _descendants(pid: int) -> list[int]:
    """The living processes that one has started, however indirectly: members of a world, their workers, what serves them."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [found for child in children if is_alive(child) for found in (child, *_descendants(child))]


def table(found: Mapping[str, Counter[str]]) -> str:
    names = ("disturbed", "all", "one", "worker", "torchrun", "paused", "ends compared")
    lines = [f"| {stage} | " + " | ".join(str(counts[name]) for name in names) + " | 0 |" for stage, counts in found.items()]
    total = sum(found.values(), Counter[str]())
    head = [
        "| stage | in all | SIGKILL of all | of one rank | of a worker | of torchrun | SIGSTOP of one | ends compared | differ |",
        "|---|" + "---:|" * 8,
    ]
    return "\n".join([*head, *lines, "| all | " + " | ".join(str(total[name]) for name in names) + " | 0 |"])


def everything(
    folder: Path, kills: int, pause_s: float, only: Sequence[str] = (), cold: bool = False
) -> Iterator[tuple[str, Counter[str]]]:
    """Each stage with its share of the kills, then the programs with theirs; or `only` those of these names, in that order."""
    preload()
    made, started = stages(folder / "inputs"), programs.programs(folder / "programs")
    for name in only or [*made, *started]:
        if name in made:
            share = max(1, round(made[name].share * (1 - PROGRAMS) * kills))
            yield name, torture(name, made[name], folder / name, share, pause_s, cold)
        else:
            share = max(1, round(PROGRAMS * kills / len(started)))
            yield name, programs.torture(started[name], folder / name, share, cold)
