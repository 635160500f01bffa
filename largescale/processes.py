"""Processes that end with those that started them, and what signals ask of them."""

import ctypes
import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
OWN = "LARGESCALE_RANK"
"""Process id of the rank. Its own children (loader workers, programs) inherit it: they end with the rank, not with torchrun."""
ADOPTERS = ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit")
"""Programs that may become the parent of a process whose own has died, besides process 1."""
LAUNCHERS = ("python", "torchrun", "accelerate", "ray", "pt_")
"""Of ranks, that may be process 1 of a container."""


def end_with_torchrun() -> None:
    """Let the kernel kill this rank when its torchrun dies; where that is dead already, end at once.

    It would wait for a store that is gone, or train on against the rank that takes its place. `import largescale` calls this.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.setdefault(OWN, str(os.getpid())) != str(os.getpid()):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or _has_adopted(parent):
        os._exit(1)  # torchrun died before it could be asked for


def _has_adopted(parent: int) -> bool:
    """Whether a process is the parent of orphans, and no torchrun."""
    try:
        name = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:
        return False
    return not name.startswith(LAUNCHERS) if parent == 1 else name in ADOPTERS


def end_with_parent() -> None:
    """A worker process ends with the process that asked for it, however that ends, and not only with the fork server."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def start_fork_server() -> None:
    """The process that workers are forked from, so that it and they outlive a SIGTERM to all processes of a group, as `timeout`,
    systemd and Slurm send it: the training, which they end with, saves its state first."""
    resource_tracker.ensure_running()  # it unblocks signals when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver._forkserver.ensure_running()  # type: ignore[attr-defined]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """For workers: Ctrl-C and torchrun's SIGTERM reach them too, but the main process decides when they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class StoppedError(Exception):
    """The ranks agreed to stop, as a signal asked; the same command goes on."""
