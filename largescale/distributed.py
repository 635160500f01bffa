"""Process groups, decisions taken together, and the one differentiable gather.

Data collectives run on the device's backend (nccl or gloo); decisions run on a gloo group of their own with a short
timeout, so that a dead rank becomes an error instead of a hang. One process is a world of size one, not a special case.
"""

import json
import logging
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from largescale.processes import StoppedError
from largescale.settings import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
STORE_S = 60
"""How long a rank looks for the store of its torchrun, which is there before the rank is."""


def _fresh_store(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """The store that the ranks meet in, without what ranks of an earlier attempt left there; this rank; the number of ranks.

    torchrun keeps its store when it starts the ranks again, so they would find the addresses of dead ones. Each rank says
    that it is here with a word of its own; rank 0 tells everyone the words that it reads, until everyone has found its own.

    Raises:
        RuntimeError: a rank did not come, or died on its way.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    # a store that is nowhere is looked for twice, with a pause between: three timeouts in all
    store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=STORE_S) if agent else timeout / 3))
    store.set_timeout(timeout)
    word, end = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
    store.set(f"here/{rank}", word)
    while time.monotonic() < end:
        if rank == 0:
            store.set("words", json.dumps([store.get(f"here/{other}").decode() for other in range(size)]))
        words = json.loads(store.get("words"))
        if len(words) == size and words[rank] == word:
            store.set(f"{words[0]}/{rank}", "")
            if rank != 0 or store.check([f"{word}/{other}" for other in range(size)]):
                return dist.PrefixStore(words[0], store), rank, size
        time.sleep(0.01)
    lost = [other for other in range(size) if rank == 0 and not store.check([f"{word}/{other}"])] or [0]
    raise dist.DistStoreError(
        f"rank {rank} waited {timeout.total_seconds():.0f} s for rank {', '.join(map(str, lost))}, which has died as it started; "
        "its own output says why"
    )


def _set_environment() -> None:
    """What torchrun sets, for a program that was started without it."""
    os.environ.update({name: str(value) for name, value in places(os.environ).items()})


def places(environment: Mapping[str, str]) -> dict[str, str | int]:
    """What is missing of torchrun's variables, from whoever started this process: another launcher, srun, or nobody.

    A launcher that gives a rank but none on its node starts one process on each, as Kubernetes does, unless it says otherwise.

    Raises:
        UserError: this is one of several nodes, and nobody gave it a rank.
    """
    if "RANK" in environment:
        size = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        local = environment.get("LOCAL_RANK") or environment.get("SLURM_LOCALID") or int(environment["RANK"]) % size
        return {"LOCAL_RANK": local, "LOCAL_WORLD_SIZE": size}
    if "SLURM_STEP_ID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _of_srun(environment)
    if int(environment.get("PET_NNODES", "1").rpartition(":")[2]) > 1:
        raise UserError(
            f"this is one of {environment['PET_NNODES']} nodes (PET_NNODES, of Kubeflow Trainer) and has no RANK: each of them "
            "would train by itself, into the same folder; start the program by torchrun, which reads the PET_ variables"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _of_srun(environment: Mapping[str, str]) -> dict[str, str | int]:
    """Of a step of srun: its tasks are the ranks, and they meet on its first node."""
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment["SLURM_STEP_TASKS_PER_NODE"])  # "4(x2),3": 4, 4, 3
    tasks = [int(count) for count, times in counts for _ in range(int(times or 1))]
    nodes = re.match(r"([^,\[]|\[[^\]]*\])+", environment["SLURM_STEP_NODELIST"])
    assert nodes is not None
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes[0])  # "rack[1-2]node[03-05,9]-ib,login": rack1node03-ib
    own: Mapping[str, str | int] = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": tasks[int(environment["SLURM_NODEID"])],
    }
    port = 20_000 + (100 * int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])) % 40_000
    return {"MASTER_ADDR": first, "MASTER_PORT": port, **own}


@dataclass(frozen=True)
class World:
    """The processes of one program. `control` is the gloo group on which decisions are shared."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    control: Any

    @staticmethod
    def start(timeout_s: float = 1800, control_timeout_s: float = 600) -> "World":
        """Join the process group that torchrun describes; without torchrun, a world of one process."""
        _set_environment()
        local_rank = int(os.environ["LOCAL_RANK"])
        cuda = torch.cuda.is_available()
        # a launcher may show each process its own GPU alone
        device = torch.device("cuda", local_rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        timeout = timedelta(seconds=timeout_s)
        store, rank, size = _fresh_store(timeout)
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=timeout)
        control = dist.new_group(backend="gloo", timeout=timedelta(seconds=control_timeout_s))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return World(rank, size, local_rank, local_size, device, control)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        """Close the process groups, also after an error."""
        dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def decide(self, decision: Callable[[], T]) -> T:
        """Rank 0 decides and every rank learns the result; an error on rank 0 is raised on every rank."""
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box[0] = decision()
            except Exception as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0, group=self.control)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in the order of ranks, on every rank."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def agree(self, action: Callable[[], T]) -> list[T]:
        """Every rank acts; the results of all, on every rank. An error on any rank is raised on every rank."""
        result, error = None, None
        try:
            result = action()
        except Exception as caught:
            error = caught
        everyone = self.gather((result, error))
        for _, error in everyone:
            if error is not None:
                raise error
        return [cast(T, result) for result, _ in everyone]

    def sum(self, *values: float) -> list[float]:
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, *values: float) -> list[float]:
        return self._reduce(values, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        return self.max(float(flag))[0] > 0

    def barrier(self, timeout_s: float | None = None) -> None:
        """Wait for all ranks; the error after the timeout names the ranks that did not come."""
        timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        dist.monitored_barrier(self.control, timeout=timeout, wait_all_ranks=True)

    def group_of(self, tensor: torch.Tensor) -> Any:
        """The process group that carries a tensor: nccl carries none in the memory of the node, gloo does."""
        return None if tensor.device.type == self.device.type else self.control

    def share(self, count: int, rank: int | None = None) -> slice:
        """The contiguous part of `count` columns of a rank (None: this one): sizes differ by one at most, the first get more."""
        rank = self.rank if rank is None else rank
        small, rest = divmod(count, self.size)
        start = rank * small + min(rank, rest)
        return slice(start, start + small + (rank < rest))

    def _reduce(self, values: tuple[float, ...], operation: Any) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, operation, group=self.control)
        return tensor.tolist()


class _Gather(torch.autograd.Function):
    """Rows of all ranks. The adjoint of a gather is the sum over ranks of the gradient of one's own rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, alike: bool) -> torch.Tensor:
        size = dist.get_world_size()
        rows = [len(x)] * size if alike else _lengths(x)
        padded = x.contiguous()
        if len(x) < max(rows):
            padded = x.new_zeros((max(rows), *x.shape[1:]))
            padded[: len(x)] = x
        everyone = x.new_empty((size * max(rows), *x.shape[1:]))
        dist.all_gather_single(everyone, padded)
        before = sum(rows[: dist.get_rank()])
        ctx.own = slice(before, before + len(x))
        if min(rows) == max(rows):
            return everyone
        return torch.cat([part[:count] for part, count in zip(everyone.split(max(rows)), rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.own], None


def _lengths(x: torch.Tensor) -> list[int]:
    """Rows of every rank."""
    counts = torch.empty(dist.get_world_size(), dtype=torch.long, device=x.device)
    dist.all_gather_single(counts, torch.tensor([len(x)], device=x.device))
    lengths: list[int] = counts.tolist()
    return lengths


def gather_with_gradient(x: torch.Tensor, *, alike: bool = False) -> torch.Tensor:
    """Rows of every rank in the order of ranks, differentiable.

    Args:
        x: `(B_r, ...)`, the rows of this rank; `B_r` may differ between ranks.
        alike: every rank has as many, and need not ask.

    Returns:
        `(sum of B_r, ...)`, the same on every rank. When every rank computes the same scalar from it and the gradients of
        the parameters are averaged over ranks (as DDP does), they equal those of one process with all rows.
    """
    return _Gather.apply(x, alike)


@contextmanager
def stoppable_world() -> Iterator[tuple[World, "StopSignal"]]:
    """The processes of a program and the signal that stops them; where it was stopped, it says that it can go on."""
    with World.start() as world:
        try:
            yield world, StopSignal(world)
        except StoppedError:
            if world.is_first:
                log.info("stopped; the same command goes on from what is done")


class StopSignal:
    """SIGTERM and SIGINT ask for a stop; the program finishes its step, saves and leaves.

    The signal may reach the ranks at different steps: `requested` asks all of them, so that they stop together.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        self.received = True

    def requested(self) -> bool:
        return self.world.any(self.received)
