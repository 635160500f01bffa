"""kill -9 of torchrun alone, at start-up too: its ranks end with it, and the program goes on to the end of an undisturbed one."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from largescale.commit import is_complete
from largescale.mining import Generations
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT, TORCHRUN, finish, kill_all, losses, ranks, start, wait_for
from tests.evaluation.small import SIZE, make_weights, tiny_network, what_was_found
from tests.mining.served import EPOCHS, STEPS, add_weights, make_run
from tests.programs import ROOT
from tests.test_processes import ends
from tests.torture.stages import described, parts

SLOW_S = 600


class Program(NamedTuple):
    """A program that goes on where it was killed, on so many ranks."""

    path: str
    ranks: int
    arguments: Callable[[Path], list[object]]
    found: Callable[[Path], Any]
    """What is compared at the end."""
    ends_after: Callable[[Path], bool] | None = None
    """What is waited for, of a program that then must be told that there is nothing more to do."""
    tell: Callable[[Path], object] | None = None


def programs(inputs: Path) -> dict[str, Program]:
    corpus = make_corpus(inputs / "corpus", labels=8, per_label=4, shards=4, size=64)
    weights, network = make_weights(inputs / "weights.safetensors"), tiny_network()
    write_folder(inputs / "model", Contents(network, DescriptorConfig(size=SIZE, dim=network.dim)), "")
    small = ["images.size=48", "loader.workers=0", "tracking.wandb=off"]
    learn = ["model.backbone=squeezenet1_1", "tuples={per_step: 2, per_epoch: 8}", "mining.negatives=2", "epochs=2"]
    learn += [*small, f"corpus={corpus}", "checkpoint.every=1", "tracking.every=1", "name=run"]
    score = [*small, f"weights={weights}", f"gallery={corpus}", "batch_size=4"]
    describe = [f"model={inputs / 'model'}", f"source={corpus}", "batch_size=4", "loader.workers=0"]

    def follow(folder: Path) -> list[object]:
        if not (folder / "run").exists():
            make_run(folder / "run", corpus, STEPS)
        return [folder / "run"]

    return {
        "training by torchrun": Program(
            "launch/train.py", 2, lambda folder: [*learn, f"runs={folder}"], lambda folder: losses(folder / "run")
        ),
        "mining service by torchrun": Program(
            "launch/mine.py",
            1,
            follow,
            lambda folder: parts(folder / "run", 1, STEPS),
            lambda folder: is_complete(Generations(folder / "run", "").path(1, STEPS)),
            lambda folder: add_weights(folder / "run", corpus, EPOCHS * STEPS),
        ),
        "evaluation by torchrun": Program(
            "launch/evaluate.py",
            2,
            lambda folder: [*score, f"out={folder / 'out'}"],
            lambda folder: what_was_found(folder / "out"),
        ),
        "embedding by torchrun": Program("launch/embed.py", 1, lambda folder: [*describe, f"out={folder / 'out'}"], described),
    }


def torture(program: Program, folder: Path, kills: int, cold: bool = False, seed: int = 0) -> Counter[str]:
    """So many kills of its torchrun.

    Args:
        cold: torchrun and its ranks import all that they need, as a user's do.
    """
    began = time.monotonic()
    _finish(program, folder / "calm", cold)
    span, moments, counts = time.monotonic() - began, random.Random(f"{seed} {program.path}"), Counter[str]()
    for _ in range(kills):
        process = _start(program, folder / "killed", cold)
        time.sleep(moments.uniform(0, span))
        left = [] if process.poll() is not None else ranks(process)
        kill_all(process)
        assert all(map(ends, left)), f"ranks of {program.path} outlive their torchrun"
        counts.update({"disturbed": 1, "torchrun": 1})
    _finish(program, folder / "killed", cold)
    assert program.found(folder / "killed") == program.found(folder / "calm")
    assert list((folder / "killed").rglob("*.partial")) == []
    counts["ends compared"] += 1
    return counts


def _start(program: Program, folder: Path, cold: bool) -> Any:
    options = ("--standalone", "--nproc-per-node", program.ranks)
    if not cold:
        return start(program.arguments(folder), *options, program=program.path)
    command = [str(part) for part in (*TORCHRUN, *options, program.path, *program.arguments(folder))]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(program: Program, folder: Path, cold: bool) -> None:
    process = _start(program, folder, cold)
    if program.ends_after is not None and program.tell is not None:
        wait_for(lambda: program.ends_after(folder), process, SLOW_S)  # type: ignore[misc]
        program.tell(folder)
    output = finish(process, SLOW_S)
    assert process.returncode == 0, output
