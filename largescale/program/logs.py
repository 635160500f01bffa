"""What programs say while they work, beside what they answer: a line each, with the time and the rank."""

import logging
import os
import sys


class _AboveBars(logging.Handler):
    """To the standard error, above a bar of progress that may be there; the standard output has what a program answers."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), sys.stderr)
        sys.stderr.flush()


def show_logs() -> None:
    """Show what our packages log, from INFO on. A program calls this once, at its start."""
    handler = _AboveBars()
    handler.setFormatter(logging.Formatter(f"%(asctime)s rank {os.environ.get('RANK', '0')}: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("largescale")
    logger.setLevel(logging.INFO)
    logger.handlers, logger.propagate = [handler], False
