"""Processor cores: how many a process may use, and threads that compute on one each."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores_of_node() -> float:
    """Cores that the programs on this node may use together: those of the affinity mask, within the quota of the container."""
    cores: float = len(os.sched_getaffinity(0))
    if QUOTA.exists() and (quota := QUOTA.read_text().split())[0] != "max":
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return cores


def own_cores() -> int:
    """This process's share of the cores of its node, at least one."""
    return max(1, int(cores_of_node()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def own_threads() -> Iterator[None]:
    """torch computes on this process's share of the cores: torchrun gives it one thread, and too many wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(own_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Products on one thread: more of them add in another order."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute side by side, on one core each; what has not begun at the end is not begun any more."""
    import torch

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # a new thread takes over what was last set in any thread
