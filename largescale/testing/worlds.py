"""Runs a function in several real processes joined by gloo."""

import faulthandler
import multiprocessing
import os
import queue
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WARM = multiprocessing.get_context("forkserver")
"""Its processes begin with what is preloaded."""
# what every member would import again, seconds each time
PRELOAD = ["torch", "torch._dynamo", "torch.distributed.checkpoint", "torch.nn.parallel", "largescale.distributed", "pytest"]
PRELOAD += ["largescale.search.index"]
PRELOAD += ["shards.shard", "shards.verify", "timm", "largescale.mining.service.service", "largescale.training.settings.recipe"]
WARM.set_forkserver_preload(PRELOAD)
STACK_S = 0.5
"""What a process needs to write down where it stands."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _member(
    places: dict[str, Any], patience_s: float, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    faulthandler.register(signal.SIGUSR1)
    os.environ.update({name: str(value) for name, value in places.items()})
    import torch

    from largescale.distributed import World

    torch.set_num_threads(1)
    try:
        with World.start(patience_s, patience_s) as world:
            results.put((world.rank, function(world, *arguments), None))
    except BaseException:
        results.put((places["RANK"], None, traceback.format_exc()))


def start_world(
    size: int,
    function: Callable[..., Any],
    *arguments: Any,
    gpu: bool = False,
    hashes: bool = False,
    patience_s: float = 60,
) -> tuple[list[Any], Any]:
    """`size` started processes that run `function(world, *arguments)`, and the queue of their (rank, result, error).

    Args:
        patience_s: how long a rank waits for another.
    """
    context = multiprocessing.get_context("spawn") if hashes else WARM
    results = context.Queue()
    places = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    if not gpu:
        places["CUDA_VISIBLE_DEVICES"] = ""
    ranks = [places | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
    members = [context.Process(target=_member, args=(own, patience_s, results, function, arguments)) for own in ranks]
    for rank, member in enumerate(members):
        with _hash_seed(rank + 1 if hashes else None):
            member.start()
    return members, results


def show_stacks(members: list[Any]) -> None:
    """Where each of the processes stands, on the standard error."""
    for rank, member in enumerate(members):
        if member.is_alive():
            print(f"rank {rank}, process {member.pid}:", file=sys.stderr, flush=True)
            os.kill(member.pid, signal.SIGUSR1)
            time.sleep(STACK_S)


@contextmanager
def _hash_seed(seed: int | None) -> Iterator[None]:
    """Of the programs that are started within it: the order of their sets of texts follows from it."""
    before = dict(os.environ)
    if seed is not None:
        os.environ["PYTHONHASHSEED"] = str(seed)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_world(
    size: int,
    function: Callable[..., Any],
    *arguments: Any,
    timeout_s: float = 600,
    gpu: bool = False,
    hashes: bool = False,
    patience_s: float = 60,
) -> list[Any]:
    """`function(world, *arguments)` on `size` ranks; its results in the order of ranks. `function` must be picklable.

    Where one gives no answer in time, the standard error says where each stands.

    Args:
        timeout_s: for the next answer.
        gpu: each rank on a GPU of its own; else on the CPU, also where there are GPUs.
        hashes: each rank hashes texts in its own way, as the ranks of torchrun do: sets have another order on each.
        patience_s: how long a rank waits for another.
    """
    members, results = start_world(size, function, *arguments, gpu=gpu, hashes=hashes, patience_s=patience_s)
    try:
        answers = [results.get(timeout=timeout_s) for _ in members]
    except queue.Empty:
        show_stacks(members)
        raise AssertionError(f"a world gave no answer in {timeout_s:g} s") from None
    finally:
        for member in members:
            member.join(timeout=5)
            member.kill()
    errors = [f"rank {rank}:\n{error}" for rank, _, error in answers if error]
    assert not errors, "\n".join(errors)
    return [answer for _, answer, _ in sorted(answers, key=lambda entry: entry[0])]


def kill_in_world(victim: int, function: Callable[..., Any], *arguments: Any) -> None:
    """`function(world, *arguments)` on two ranks; it kills the victim with SIGKILL, and the other ends with an error."""
    members, results = start_world(2, function, *arguments)
    try:
        rank, _, error = results.get(timeout=60)
    finally:
        for member in members:
            member.join(timeout=60)
            member.kill()
    assert members[victim].exitcode == -signal.SIGKILL
    assert rank == 1 - victim
    assert error is not None
