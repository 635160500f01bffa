"""Kills at random moments of every stage, of all its processes or of one; the same work then goes on, and its end is compared.

Processes come from a fork server, so that two hundred kills take minutes. `programs` kills what torchrun starts, at start-up too.
"""

import hashlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from largescale.distributed import World
from largescale.mining import Generations
from largescale.training.checkpoint import Checkpoints
from largescale.training.config import CheckpointConfig
from shards.images import Encoding
from shards.sources.folder import Folder
from shards.writer import build
from tests.corpora import make_corpus
from tests.evaluation.small import evaluate_in_world, make_weights, settings, what_was_found
from tests.mining.test_miner import CONFIG, EPOCH, STEP, mine_colors
from tests.shards.photographs import write_photographs
from tests.training.small import small_engine, train
from tests.world import run_world, start_world

STEPS, LIVES = 6, 6
ENDS_S = 180
"""The worlds of tests wait 60 s for a rank, at two places."""
WAYS = ("all", "all", "one", "stopped")
"""What happens to the processes: SIGKILL of all, or of one, whose others must end by themselves; SIGSTOP for a while."""


class Stage(NamedTuple):
    """Work that goes on where it was killed."""

    ranks: int
    work: Callable[..., Any]
    arguments: Callable[[Path], tuple[Any, ...]]
    found: Callable[[Path], Any]
    """What is compared at the end."""


def build_corpus(_: World, photographs: Path, out: Path) -> None:
    build(Folder(photographs), out, Encoding(max_side=24), workers=2)


def train_small(world: World, folder: Path) -> None:
    """Six steps with a checkpoint after each, from the newest one on."""
    engine = small_engine(world)
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(keep=2), world, {"a": 1})
    newest = checkpoints.newest()
    step = 0
    if newest is not None:
        checkpoint = checkpoints.load(newest)
        engine.load(checkpoint.tensors)
        step = checkpoint.step
    for number in range(step, STEPS):
        train(engine, range(number, number + 1))
        checkpoints.save(number + 1, engine.state(), {})
    checkpoints.wait()


def stages(inputs: Path) -> dict[str, Stage]:
    photographs = write_photographs(inputs / "photographs", [f"{label}/{n:03d}.jpg" for label in "ab" for n in range(40)])
    gallery = make_corpus(inputs / "gallery", labels=6, per_label=4, shards=6, size=48)
    mined = make_corpus(inputs / "mined", labels=12, per_label=4, shards=4, size=16)
    weights = make_weights(inputs / "weights.safetensors")

    def evaluation(folder: Path) -> tuple[Any, ...]:
        return weights, settings(folder / "out", gallery=str(gallery))

    return {
        "shards": Stage(
            1, build_corpus, lambda folder: (photographs, folder / "corpus"), lambda folder: files(folder / "corpus")
        ),
        "training": Stage(2, train_small, lambda folder: (folder,), lambda folder: files(folder / "checkpoints")),
        "evaluation": Stage(2, evaluate_in_world, evaluation, lambda folder: what_was_found(folder / "out")),
        "mining": Stage(2, mine_colors, lambda folder: (mined, folder, CONFIG), negatives),
    }


def negatives(folder: Path) -> list[bytes]:
    fingerprint = Generations(folder, "").path(EPOCH, STEP)
    return [path.read_bytes() for path in sorted(fingerprint.glob("part-*.npy"))]


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder but the hidden ones, by its hash."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def torture(name: str, stage: Stage, folder: Path, kills: int, seed: int = 0) -> Counter[str]:
    """So many kills of a stage; raises AssertionError where an end differs from the undisturbed one."""
    moments, counts = random.Random(f"{seed} {name}"), Counter[str]()
    for calm in ("warm", "calm"):  # the first starts the fork server
        began = time.monotonic()
        run_world(stage.ranks, stage.work, *stage.arguments(folder / calm))
    span, expected = time.monotonic() - began, stage.found(folder / "calm")
    assert expected
    while counts["kills"] < kills:
        place = folder / "disturbed"
        for _ in range(LIVES):
            way = moments.choice(WAYS)
            if counts["kills"] >= kills or not _disturb(stage, place, way, moments.uniform(0, span), moments):
                break
            counts["kills"] += 1
            counts[way] += 1
        run_world(stage.ranks, stage.work, *stage.arguments(place))
        assert stage.found(place) == expected, f"{name}: the end differs from the undisturbed one, see {place}"
        assert list(place.rglob("*.partial")) == [], f"{name}: partial files are left behind"
        shutil.rmtree(place)
        counts["ends compared"] += 1
        print(f"{name}: {dict(counts)}", flush=True)
    return counts


def _disturb(stage: Stage, place: Path, way: str, after: float, moments: random.Random) -> bool:
    """Whether the work was still going on when it was disturbed."""
    members, results = start_world(stage.ranks, stage.work, *stage.arguments(place))
    end = time.monotonic() + after
    while time.monotonic() < end and any(member.is_alive() for member in members):
        time.sleep(0.005)
    alive = [member for member in members if member.is_alive()]
    if way == "stopped":
        for member in alive:
            os.kill(member.pid, signal.SIGSTOP)
        time.sleep(1)
        for member in alive:
            os.kill(member.pid, signal.SIGCONT)
    for member in alive if way != "one" else alive[:: moments.choice((1, -1))][:1]:
        member.kill()
    for member in members:
        member.join(timeout=ENDS_S)
        assert not member.is_alive(), f"a process did not end {ENDS_S} s after another was killed"
    results.close()
    return bool(alive)


def table(found: Mapping[str, Counter[str]]) -> str:
    names = ("kills", "all", "one", "stopped", "ends compared")
    lines = [f"| {stage} | " + " | ".join(str(counts[name]) for name in names) + " | 0 |" for stage, counts in found.items()]
    total = sum(found.values(), Counter[str]())
    head = [
        "| stage | kills | of all ranks | of one rank | after a stop of 1 s | ends compared | different |",
        "|---|" + "---:|" * 6,
    ]
    return "\n".join([*head, *lines, "| all | " + " | ".join(str(total[name]) for name in names) + " | 0 |"])


SHARES = {"training": 0.4, "mining": 0.4, "evaluation": 0.15, "shards": 0.05}
"""Of the kills: a build starts its workers anew each time, which takes longest."""


def everything(folder: Path, kills: int) -> Iterator[tuple[str, Counter[str]]]:
    """Each stage with its share of the kills."""
    made = stages(folder / "inputs")
    for name, share in SHARES.items():
        yield name, torture(name, made[name], folder / name, max(1, round(share * kills)))
