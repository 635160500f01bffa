"""Starts programs as a user does, with torchrun, and reads what they left in their run directory."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import programs
from tests.programs import Program

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# the second lets torchrun replace a node that died
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def start(arguments: Sequence[object], *torchrun: object, program: str = "launch/train.py") -> Program:
    """torchrun; its ranks end with it."""
    options = torchrun or ("--standalone", "--nproc-per-node", 2)
    return Program([*TORCHRUN, *options, program, *arguments], ENVIRONMENT)


def finish(process: Program, timeout_s: float = 300) -> str:
    """Everything that it printed; it is killed when it does not end in time."""
    try:
        return process.communicate(timeout=timeout_s)[0]
    finally:
        kill_all(process)


def run(arguments: Sequence[object], processes: int, status: int = 0) -> str:
    """A run that ends by itself with the expected exit status."""
    process = start(arguments, "--standalone", "--nproc-per-node", processes)
    output = finish(process)
    assert process.returncode == status, output
    return output


def run_alone(arguments: Sequence[object], status: int = 0) -> str:
    """A run of one process without torchrun."""
    done = programs.run([sys.executable, "launch/train.py", *arguments], ENVIRONMENT)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def kill_all(process: Program) -> None:
    """kill -9 of torchrun, with which its ranks end."""
    process.kill()
    process.wait()


def ranks(process: Program) -> list[int]:
    """Process ids of the ranks that torchrun has started."""
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def lines(directory: Path) -> list[dict]:
    """The complete lines of the record."""
    path = directory / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def losses(directory: Path) -> dict[int, float]:
    """Loss by step; a step that the record names twice is an error."""
    found = [(line["step"], line["train/loss"]) for line in lines(directory) if "train/loss" in line]
    assert len(found) == len(dict(found)), f"steps are repeated: {found}"
    return dict(found)


def wait_for(condition: Callable[[], bool], process: Program, timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            kill_all(process)
            raise AssertionError(f"it did not come to that:\n{process.communicate()[0]}")
        time.sleep(0.02)


def wait_for_step(directory: Path, step: int, process: Program) -> None:
    wait_for(lambda: max(losses(directory), default=0) >= step, process)
