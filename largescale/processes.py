"""Processes that end with those that started them, and what signals ask of them."""

import ctypes
import multiprocessing
import os
import signal
import threading

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def end_with_torchrun() -> None:
    """A rank whose torchrun was killed would train on, against the one that takes its place: let the kernel kill it too."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent() -> None:
    """A worker process ends with the process that asked for it, however that ends, and not only with the fork server."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def ignore_stop_signals() -> None:
    """For workers: Ctrl-C and torchrun's SIGTERM reach them too, but the main process decides when they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class StoppedError(Exception):
    """The ranks agreed to stop, as a signal asked; the same command goes on."""
