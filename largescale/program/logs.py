"""What programs say while they work, beside what they answer: a line each, with the time and the rank."""

import logging
import os
import sys

from largescale.names import without_secrets

ONCE = {"once": True}
"""`extra` of a line that every rank would say alike: the first one does."""


class _AboveBars(logging.Handler):
    """To the standard error, above a bar of progress that may be there; the standard output has what a program answers."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), sys.stderr)
        sys.stderr.flush()


class _WithoutSecrets(logging.Formatter):
    """What a server or a library says of an error may hold the signed URL that it was sent on to."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def show_logs() -> None:
    """Show what our packages log, from INFO on. A program calls this once, at its start."""
    handler, rank = _AboveBars(), os.environ.get("RANK", "0")
    handler.setFormatter(_WithoutSecrets(f"%(asctime)s rank {rank}: %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: rank == "0" or not getattr(record, "once", False))
    logger = logging.getLogger("largescale")
    logger.setLevel(logging.INFO)
    logger.handlers, logger.propagate = [handler], False
