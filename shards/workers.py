"""Worker processes that end with the process that started them, however it ends."""

import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from largescale.processes import end_with_parent
from largescale.settings import UserError

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch", f"{__package__}.shard"])
_counter: Any = None  # each worker's view of the counter that it was started with


@contextmanager
def pool(workers: int, counter: Any = None) -> Iterator[ProcessPoolExecutor]:
    """`workers` processes; after an error or Ctrl-C they are not waited for.

    Args:
        counter: a `context.Value` that the workers `advance`.

    Raises:
        UserError: a worker died.
    """
    with ProcessPoolExecutor(workers, context, _start, (counter,)) as processes:
        try:
            yield processes
        except BrokenProcessPool:
            raise UserError(
                "a worker process died, which is what happens when memory runs out; "
                "what is finished is kept: repeat the command, with fewer --workers if it dies again"
            ) from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def advance() -> None:
    """Count one image in a worker."""
    with _counter.get_lock():
        _counter.value += 1


def _start(counter: Any) -> None:
    import torch

    global _counter
    _counter = counter
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what matters about an image goes into its record
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # with which the pool ends them; a fork server may block it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the workers too, but the main process ends them
    end_with_parent()
