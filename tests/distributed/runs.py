"""Starts programs as a user does, with torchrun, and reads what they left in their run directory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# the second lets torchrun replace a node that died
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def start(
    arguments: Sequence[object], *torchrun: object, program: str = "launch/train.py", prefix: Sequence[str] = ()
) -> subprocess.Popen:
    """torchrun, behind the words of `prefix`; its ranks end with it."""
    options = torchrun or ("--standalone", "--nproc-per-node", 2)
    command = [*prefix, *TORCHRUN, *options, program, *arguments]
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, timeout_s: float = 300) -> str:
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
    command = [sys.executable, "launch/train.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def kill_all(process: subprocess.Popen) -> None:
    """kill -9 of torchrun, with which its ranks end."""
    process.kill()
    process.wait()


def ranks(process: subprocess.Popen) -> list[int]:
    """Process ids of the ranks that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"launch/train.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


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


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            kill_all(process)
            raise AssertionError(f"it did not come to that:\n{process.communicate()[0]}")
        time.sleep(0.02)


def wait_for_step(directory: Path, step: int, process: subprocess.Popen) -> None:
    wait_for(lambda: max(losses(directory), default=0) >= step, process)
