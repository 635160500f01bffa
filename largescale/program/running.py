"""How our programs begin and end."""

import atexit
import errno
import hashlib
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from largescale.commit import FULL
from largescale.names import without_secrets
from largescale.program.logs import show_logs
from largescale.settings import UserError

PLACES = {
    **dict.fromkeys(FULL, "make room"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "choose a folder that can be written"
    ),
}
"""What helps against errors of the place that is written to."""
SAID = 2
"""Exit status of a program that has said in a sentence what is wrong."""
LISTEN_S = 5
"""How long a rank that fails waits for those that have the same to say."""


def run_program(main: Any) -> None:
    """Run `main(arguments)` and end the process; a UserError is printed as a sentence, without a traceback, with exit status 2.
    So is a disk that is full, or a folder that cannot be written.

    Where nobody reads its output any more (`| head`), it ends without a word, with the status that SIGPIPE gives other programs.
    The process ends without the interpreter's finalization, in which the threads of process groups that are still referenced
    may ask for the interpreter and abort the process, although the work is done.
    """
    status = 0
    show_logs()
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        status = 128 + signal.SIGPIPE
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else fault_of_place(error)
        if sentence is None:
            raise
        status = _say(f"error: {without_secrets(sentence)}")
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def fault_of_place(error: Exception) -> str | None:
    """A sentence for an error of the place that was written to; None for any other error."""
    number = getattr(error, "errno", None)
    if number not in PLACES:
        return None
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    place = f"{name}: " if name else ""
    return (
        f"{place}{os.strerror(number)} while writing; what was committed before is whole: {PLACES[number]}, and give the same "
        "command again"
    )


def _say(message: str) -> int:
    """Print what was wrong; returns the exit status. Of the ranks of a node that have the same to say one prints it and fails.

    torchrun reports each rank that fails, in seven lines, so the others end as if all were well, and the first waits for them. It
    gives the ranks folders side by side, new ones after a restart.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        print(message, file=sys.stderr)
        return SAID
    listening = Path(path).parent.parent / f"said-{hashlib.sha256(message.encode()).hexdigest()[:16]}"
    try:
        listening.mkdir()
    except FileExistsError:
        (listening / os.environ.get("LOCAL_RANK", "0")).touch()
        return 0
    print(message, file=sys.stderr)
    _tell_torchrun(Path(path), message)
    others, end = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, time.monotonic() + LISTEN_S
    while len(list(listening.iterdir())) < others and time.monotonic() < end:
        time.sleep(0.02)
    return SAID


def _tell_torchrun(path: Path, message: str) -> None:
    """What torchrun prints last, in place of a hint at how to make it show more."""
    about = {"py_callstack": message, "timestamp": str(int(time.time()))}
    path.write_text(json.dumps({"message": {"message": message, "extraInfo": about}}))


def _nobody_reads() -> bool:
    """Whether the reader of the pipe that the output goes to has left."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
