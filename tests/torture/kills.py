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
PATIENCE_S, ENDS_S, SLOW_S = 20, 90, 600
"""How long a rank waits for another, which it may do as it finds the others and for each of its two groups."""
PROGRAMS = 0.06
"""Of the disturbances: kills of torchrun, whose ranks take seconds to import."""


def preload() -> None:
    """Let the fork server import, besides, what every member would import again, seconds each time."""
    server = forkserver._forkserver  # type: ignore[attr-defined]
    server.set_forkserver_preload([*server._preload_modules, "tests.torture.preload"])


def torture(name: str, stage: Stage, folder: Path, kills: int, pause_s: float = 1, seed: int = 0) -> Counter[str]:
    """So many disturbances of a stage.

    Args:
        pause_s: how long the first of the processes that are stopped stands still; the others for a second.

    Raises:
        AssertionError: an end differs from the undisturbed one, a process hangs, or something is left behind.
    """
    moments, counts = random.Random(f"{seed} {name}"), Counter[str]()
    for calm in ("warm", "calm"):  # the first starts the fork server
        began = time.monotonic()
        _finish(stage, folder / calm)
    span, expected = time.monotonic() - began, stage.found(folder / "calm")
    assert expected
    while counts["disturbed"] < kills:
        place = folder / "disturbed"
        for _ in range(LIVES):
            way = moments.choice(stage.ways)
            pause = pause_s if way == "paused" and not counts["paused"] else 1
            if counts["disturbed"] >= kills:
                break
            if not _disturb(stage, place, way, moments.uniform(0, span), pause, moments):
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


def _finish(stage: Stage, place: Path) -> None:
    """The work, undisturbed, from where it is."""
    run_world(stage.ranks, stage.work, *stage.arguments(place), timeout_s=SLOW_S, patience_s=SLOW_S / 2)


def _disturb(stage: Stage, place: Path, way: str, after: float, pause_s: float, moments: random.Random) -> bool:
    """Whether the work was still going on when it was disturbed."""
    members, results = start_world(stage.ranks, stage.work, *stage.arguments(place), patience_s=PATIENCE_S + pause_s)
    server = _parent(members[0].pid)
    end = time.monotonic() + after
    while time.monotonic() < end and any(member.is_alive() for member in members):
        time.sleep(0.005)
    alive = [member.pid for member in members if member.is_alive()]
    workers = [pid for pid in _children(server) if pid not in alive]
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
    left = [pid for pid in _children(server) if not ends(pid)]
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


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children(server: int) -> list[int]:
    """The living processes that a fork server has started: members of a world, and their workers."""
    return [int(child) for child in Path(f"/proc/{server}/task/{server}/children").read_text().split() if is_alive(int(child))]


def table(found: Mapping[str, Counter[str]]) -> str:
    names = ("disturbed", "all", "one", "worker", "torchrun", "paused", "ends compared")
    lines = [f"| {stage} | " + " | ".join(str(counts[name]) for name in names) + " | 0 |" for stage, counts in found.items()]
    total = sum(found.values(), Counter[str]())
    head = [
        "| stage | in all | SIGKILL of all | of one rank | of a worker | of torchrun | SIGSTOP of one | ends compared | differ |",
        "|---|" + "---:|" * 8,
    ]
    return "\n".join([*head, *lines, "| all | " + " | ".join(str(total[name]) for name in names) + " | 0 |"])


def everything(folder: Path, kills: int, pause_s: float, only: Sequence[str] = ()) -> Iterator[tuple[str, Counter[str]]]:
    """Each stage with its share of the kills, then the programs with theirs; or `only` those of these names, in that order."""
    preload()
    made, started = stages(folder / "inputs"), programs.programs(folder / "programs")
    for name in only or [*made, *started]:
        if name in made:
            share = max(1, round(made[name].share * (1 - PROGRAMS) * kills))
            yield name, torture(name, made[name], folder / name, share, pause_s)
        else:
            yield name, programs.torture(started[name], folder / name, max(1, round(PROGRAMS * kills / len(started))))
