"""Kills at random moments of every stage, of all its processes or of one; the same work then goes on, and its end is compared.

Processes come from a fork server, so that two hundred kills take minutes. `torchruns` kills what starts the ranks of a program.
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

from largescale.corpus.config import LoaderConfig
from largescale.describing.config import EmbedConfig
from largescale.distributed import World
from largescale.mining import Generations
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.search.index import Index
from largescale.training.checkpoints.checkpoint import Checkpoints
from largescale.training.settings.config import CheckpointConfig, EngineConfig
from shards.images import Encoding
from shards.sources.folder import Folder
from shards.writer import build
from tests.corpora import make_corpus
from tests.describing.test_program import describe
from tests.distributed.runs import finish, kill_all, losses, ranks, run, start
from tests.evaluation.small import SIZE, evaluate_in_world, make_weights, settings, tiny_network, what_was_found
from tests.mining.test_miner import CONFIG, EPOCH, STEP, mine_colors
from tests.search.rows import DIM, keys, unit_rows
from tests.shards.photographs import write_photographs
from tests.test_processes import ends, is_alive
from tests.training.small import small_engine, train
from tests.world import run_world, start_world

STEPS, LIVES, PART = 6, 6, 40
PATIENCE_S, ENDS_S, SLOW_S = 20, 90, 600
"""How long a rank waits for another, which it may do as it finds the others and for each of its two groups."""
WAYS = ("all", "all", "one", "paused")
"""What happens to the processes: SIGKILL of all, or of one, whose others must end by themselves; SIGSTOP of one for a while."""


class Stage(NamedTuple):
    """Work that goes on where it was killed."""

    ranks: int
    work: Callable[..., Any]
    arguments: Callable[[Path], tuple[Any, ...]]
    found: Callable[[Path], Any]
    """What is compared at the end."""
    ways: tuple[str, ...] = WAYS


def build_corpus(_: World, photographs: Path, out: Path) -> None:
    build(Folder(photographs), out, Encoding(max_side=24), workers=2)


def train_small(world: World, folder: Path, config: EngineConfig) -> None:
    """Six steps with a checkpoint after each, from the newest one on."""
    engine = small_engine(world, config)
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


def add_parts(_: World, folder: Path) -> None:
    """Ten parts of an index, from the first that is missing on; every third time a row goes and comes again."""
    index = (
        Index.open(folder) if (folder / "index.json").exists() else Index.create(folder, DIM, index="auto", memory=200 * DIM * 4)
    )
    for number in range(len(index) // PART, 10):
        index.add_rows(unit_rows(PART, seed=number), keys(PART, f"{number} "))
        if number % 3 == 2:
            index.remove([f"{number} 00001"])
            index.add_rows(unit_rows(PART, seed=number)[1:2], [f"{number} 00001"])


def rows_by_key(folder: Path) -> list[bytes]:
    view = Index.open(folder).view
    names = [name for number in range(10) for name in keys(PART, f"{number} ")]
    found = view.find(names)
    return [view.take(found).tobytes()] if (found >= 0).all() else []


def stages(inputs: Path) -> dict[str, Stage]:
    photographs = write_photographs(inputs / "photographs", [f"{label}/{n:03d}.jpg" for label in "ab" for n in range(40)])
    gallery = make_corpus(inputs / "gallery", labels=6, per_label=4, shards=6, size=48)
    mined = make_corpus(inputs / "mined", labels=12, per_label=4, shards=4, size=16)
    weights = make_weights(inputs / "weights.safetensors")

    network = tiny_network()
    write_folder(inputs / "model", Contents(network, DescriptorConfig(size=SIZE, dim=network.dim)), "")
    embed = EmbedConfig(
        model=str(inputs / "model"), source=str(gallery), out=inputs, batch_size=4, loader=LoaderConfig(workers=0)
    )

    def evaluation(folder: Path) -> tuple[Any, ...]:
        return weights, settings(folder / "out", gallery=str(gallery))

    def embedding(folder: Path) -> tuple[Any, ...]:
        return (embed.model_copy(update={"out": folder / "out"}),)

    def checkpoints(folder: Path) -> dict[str, str]:
        return files(folder / "checkpoints")

    zero = EngineConfig(kind="deepspeed", zero_stage=2)
    return {
        "training": Stage(2, train_small, lambda folder: (folder, EngineConfig()), checkpoints),
        "training under ZeRO": Stage(2, train_small, lambda folder: (folder, zero), checkpoints),
        "mining": Stage(2, mine_colors, lambda folder: (mined, folder, CONFIG), negatives),
        "evaluation": Stage(2, evaluate_in_world, evaluation, lambda folder: what_was_found(folder / "out")),
        "embedding": Stage(2, describe, embedding, lambda folder: described(folder / "out")),
        "index": Stage(1, add_parts, lambda folder: (folder / "index",), lambda folder: rows_by_key(folder / "index"), ("all",)),
        "shards": Stage(
            1,
            build_corpus,
            lambda folder: (photographs, folder / "corpus"),
            lambda folder: files(folder / "corpus"),
            ("all", "worker", "paused"),
        ),
    }


def described(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("descriptors.npy", "names.txt")}


def negatives(folder: Path) -> list[bytes]:
    fingerprint = Generations(folder, "").path(EPOCH, STEP)
    return [path.read_bytes() for path in sorted(fingerprint.glob("part-*.npy"))]


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder but the hidden ones, by its hash."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


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
        run_world(stage.ranks, stage.work, *stage.arguments(folder / calm), timeout_s=SLOW_S)
    span, expected = time.monotonic() - began, stage.found(folder / "calm")
    assert expected
    while counts["disturbed"] < kills:
        place = folder / "disturbed"
        for _ in range(LIVES):
            way = moments.choice(stage.ways)
            pause = pause_s if way == "paused" and not counts["paused"] else 1
            if counts["disturbed"] >= kills or not _disturb(stage, place, way, moments.uniform(0, span), pause, moments):
                break
            counts["disturbed"] += 1
            counts[way] += 1
        run_world(stage.ranks, stage.work, *stage.arguments(place), timeout_s=SLOW_S)
        assert stage.found(place) == expected, f"{name}: the end differs from the undisturbed one, see {place}"
        assert list(place.rglob("*.partial")) == [], f"{name}: partial files are left behind"
        shutil.rmtree(place)
        counts["ends compared"] += 1
        print(f"{name}: {dict(counts)}", flush=True)
    return counts


def _disturb(stage: Stage, place: Path, way: str, after: float, pause_s: float, moments: random.Random) -> bool:
    """Whether the work was still going on when it was disturbed."""
    members, results = start_world(stage.ranks, stage.work, *stage.arguments(place), patience_s=PATIENCE_S + pause_s)
    others = set(_siblings(members[0].pid)) - {member.pid for member in members}
    end = time.monotonic() + after
    while time.monotonic() < end and any(member.is_alive() for member in members):
        time.sleep(0.005)
    alive = [member.pid for member in members if member.is_alive()]
    workers = [pid for pid in _siblings(alive[0]) if pid not in {*others, *alive}] if alive else []
    chosen = {"worker": workers or alive}.get(way, alive)
    if way in ("one", "paused", "worker"):
        chosen = chosen[:: moments.choice((1, -1))][:1]
    if way == "paused":
        _pause(chosen, pause_s)
    else:
        _signal(chosen, signal.SIGKILL)
    for member in members:
        member.join(timeout=ENDS_S + pause_s)
        assert not member.is_alive(), f"a process did not end {ENDS_S} s after another was disturbed ({way})"
    assert all(map(ends, workers)), f"workers are left ({way})"
    results.close()
    return bool(alive)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, number)


def _pause(pids: list[int], seconds: float) -> None:
    _signal(pids, signal.SIGSTOP)
    time.sleep(seconds)
    _signal(pids, signal.SIGCONT)


def _siblings(pid: int) -> list[int]:
    """The processes that its fork server has started: other members of the world, and their workers."""
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split() if is_alive(int(child))]


def torchruns(folder: Path, kills: int, seed: int = 0) -> Counter[str]:
    """kill -9 of torchrun alone, at start-up too: its ranks end with it, and the run goes on to the end of an undisturbed one."""
    corpus = make_corpus(folder / "corpus", labels=8, per_label=4, shards=2, size=48)
    given = [f"corpus={corpus}", "images.size=48", "model.backbone=squeezenet1_1", "loader.workers=0", "tracking.wandb=off"]
    given += ["tuples={per_step: 2, per_epoch: 8}", "mining.negatives=2", "epochs=2", "checkpoint.every=1", "tracking.every=1"]
    given += [f"runs={folder}"]
    began = time.monotonic()
    run([*given, "name=calm"], 2)
    span, moments, counts = time.monotonic() - began, random.Random(seed), Counter[str]()
    for _ in range(kills):
        process = start([*given, "name=killed"], "--standalone", "--nproc-per-node", 2)
        time.sleep(moments.uniform(0, span))
        left = [] if process.poll() is not None else ranks(process)
        kill_all(process)
        assert all(map(ends, left)), "ranks outlive their torchrun"
        counts.update({"disturbed": 1, "torchrun": 1})
    last = start([*given, "name=killed"], "--standalone", "--nproc-per-node", 2)
    output = finish(last, 300)
    assert last.returncode == 0, output
    assert losses(folder / "killed") == losses(folder / "calm")
    counts["ends compared"] += 1
    return counts


def table(found: Mapping[str, Counter[str]]) -> str:
    names = ("disturbed", "all", "one", "worker", "torchrun", "paused", "ends compared")
    lines = [f"| {stage} | " + " | ".join(str(counts[name]) for name in names) + " | 0 |" for stage, counts in found.items()]
    total = sum(found.values(), Counter[str]())
    head = [
        "| stage | in all | SIGKILL of all | of one rank | of a worker | of torchrun | SIGSTOP of one | ends compared | differ |",
        "|---|" + "---:|" * 8,
    ]
    return "\n".join([*head, *lines, "| all | " + " | ".join(str(total[name]) for name in names) + " | 0 |"])


SHARES = {
    "training": 0.2,
    "training under ZeRO": 0.04,
    "mining": 0.2,
    "evaluation": 0.06,
    "embedding": 0.05,
    "index": 0.4,
    "shards": 0.05,
}
"""Of the disturbances, by what one costs."""


def everything(folder: Path, kills: int, pause_s: float) -> Iterator[tuple[str, Counter[str]]]:
    """Each stage with its share of the kills, then torchrun."""
    made = stages(folder / "inputs")
    for name, share in SHARES.items():
        yield name, torture(name, made[name], folder / name, max(1, round(share * kills)), pause_s)
    yield "training, by torchrun", torchruns(folder / "torchrun", max(1, kills // 33))
