"""What would stop a run hours later is looked for before its first step."""

import os
import resource
import shutil
import socket
import time
import uuid
from pathlib import Path

import torch

from largescale.commit import claim_folder, own_paths, remove_directory
from largescale.distributed import World
from largescale.locks import Lease
from largescale.settings import UserError
from largescale.training.checkpoints.checkpoint import WEIGHTS_NAME, step_of
from largescale.training.planning.planners import Planner
from largescale.training.settings.recipe import TrainConfig

OPEN_FILES = 4096
GIB = 2**30
_held: dict[Path, Lease] = {}
"""Until this process ends."""


def check_machine() -> None:
    """Before the processes meet: enough GPUs for those of this node, and enough open files.

    Raises:
        UserError: more processes than GPUs, or a limit on open files that cannot be raised.
    """
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if gpus and processes > gpus:
        raise UserError(f"{processes} processes on this node but {gpus} GPUs: two would share one; use --nproc-per-node {gpus}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < OPEN_FILES:
        raise UserError(f"a process may open {hard} files here, loading needs {OPEN_FILES}; raise it: ulimit -Hn {OPEN_FILES}")
    if 0 <= soft < OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


def check_run(config: TrainConfig, world: World, planner: Planner, parameters: int) -> None:
    """Before the first step.

    Raises:
        UserError: a rank would have no part of a step, or the disk would run full.
    """
    units = config.tuples.per_step if config.tuples else planner.images
    name = "tuples.per_step" if config.tuples else "batches.classes_per_batch * batches.images_per_class"
    parts = world.size * config.engine.gradient_accumulation
    if parts > units:
        found = (
            f"{world.size} processes with engine.gradient_accumulation={config.engine.gradient_accumulation} but {name}={units}"
        )
        raise UserError(f"{found}: some would have no part of a step; use {units} parts or fewer")
    world.decide(lambda: _check_disk(config, parameters))


def claim(directory: Path) -> None:
    """Hold the run directory until this process ends. Rank 0 calls this.

    Raises:
        UserError: another run writes to it, or it is no run's.
    """
    claim_folder(directory, "run", "name= or runs=")
    _held[directory] = lease = Lease(directory / "lock")
    holder = lease.acquire()
    if holder:
        raise UserError(
            f"{directory} is being written to by {holder}: two runs would destroy each other's checkpoints; wait for it, end it, "
            "or give this run another name"
        )


def check_shared(directory: Path, world: World, patience_s: float = 30) -> None:
    """Every rank sees the run directory of the first one. All ranks call this.

    Raises:
        UserError: a node has another disk there, so that no checkpoint would be whole.
    """
    sign = world.decide(lambda: _sign(directory))
    try:
        world.agree(lambda: _find(directory / sign, world.rank, patience_s))
    finally:
        world.decide(lambda: (directory / sign).unlink())


def _sign(directory: Path) -> str:
    name = f".seen-{uuid.uuid4().hex}"
    (directory / name).touch()
    return name


def _find(sign: Path, rank: int, patience_s: float) -> None:
    """File systems of a network may show a new file seconds later."""
    end = time.monotonic() + patience_s
    while not sign.exists():
        if time.monotonic() > end:
            raise UserError(
                f"rank {rank} on {socket.gethostname()} does not see the {sign.parent} of rank 0: the nodes share no run "
                "directory, and no checkpoint would be whole; give a folder that all nodes share with runs="
            )
        time.sleep(0.1)


def clear(directory: Path) -> None:
    """Remove what a run leaves that is killed before its first checkpoint. Rank 0 calls this.

    Raises:
        UserError: there is more: weights that somebody keeps.
    """
    weights = own_paths(directory / "weights", WEIGHTS_NAME)
    last = max(weights, default=None, key=step_of)
    if last is not None and step_of(last) > 0:
        raise UserError(
            f"{last} is there, and no checkpoint in {directory / 'checkpoints'}: the run cannot go on, and to begin it anew "
            "would delete its weights; choose another name=, or move this folder away"
        )
    for path in weights:
        path.unlink()
    remove_directory(directory / "negatives")


def begin_anew(directory: Path) -> None:
    """Remove what an earlier run of the same name left. Rank 0 calls this, before the run is built.

    Raises:
        UserError: another run writes to it, or it is no run's.
    """
    if directory.exists():
        claim(directory)
        for name in ("checkpoints", "weights", "negatives"):
            remove_directory(directory / name)
        (directory / "rates.json").unlink(missing_ok=True)


def checkpoint_bytes(parameters: int) -> int:
    """Weights and two moments in float32."""
    return 12 * parameters


def _check_disk(config: TrainConfig, parameters: int) -> None:
    existing = next(path for path in [config.directory, *config.directory.absolute().parents] if path.exists())
    needed, free = (config.checkpoint.keep + 2) * checkpoint_bytes(parameters), shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"the disk of {config.directory} has {free / GIB:.1f} GiB free, the checkpoints of this run need {needed / GIB:.1f} "
            "GiB: it would run full in the middle; free some, lower checkpoint.keep, or choose another folder with runs="
        )
