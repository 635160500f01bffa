"""A rank ends with its torchrun, whenever that dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

RANK = "import os, time, largescale; open(os.environ['HERE'], 'w').close(); time.sleep(60)"
LAUNCHER = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", sys.argv[1]]).pid, flush=True)
time.sleep(60)
"""


def start(here: Path, **more: str) -> tuple[subprocess.Popen[str], int]:
    """A launcher and the process id of the rank that it has started."""
    environment = {**os.environ, "HERE": str(here), "PYTHONPATH": str(ROOT), "TORCHELASTIC_RUN_ID": "x", **more}
    environment.pop("LARGESCALE_RANK", None)
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, RANK], env=environment, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    return launcher, int(launcher.stdout.readline())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int, within_s: float = 30) -> bool:
    end = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


@pytest.mark.slow
def test_a_rank_ends_with_its_torchrun(tmp_path: Path) -> None:
    launcher, rank = start(tmp_path / "here")
    while not (tmp_path / "here").exists():
        time.sleep(0.02)
    launcher.kill()
    launcher.wait()
    assert ends(rank)


@pytest.mark.slow
def test_a_rank_whose_torchrun_died_before_it_could_ask_ends_at_once(tmp_path: Path) -> None:
    launcher, rank = start(tmp_path / "here")
    os.kill(rank, signal.SIGSTOP)  # before its first instruction of ours
    launcher.kill()
    launcher.wait()
    os.kill(rank, signal.SIGCONT)
    assert ends(rank)
    assert not (tmp_path / "here").exists()


@pytest.mark.slow
def test_a_fork_server_outlives_the_signal_that_asks_a_group_to_stop() -> None:
    program = "import signal; from multiprocessing import forkserver; from largescale.processes import start_fork_server\n"
    program += (
        "start_fork_server(); print(forkserver._forkserver._forkserver_pid, signal.pthread_sigmask(0, ()), flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    pid, mask = process.stdout.readline().split(maxsplit=1)
    assert mask.strip() == "set()"
    os.kill(int(pid), signal.SIGTERM)
    time.sleep(0.05)
    assert is_alive(int(pid))
    process.kill()
    process.wait()
    assert ends(int(pid))


@pytest.mark.slow
def test_children_of_a_rank_and_other_programs_are_left_alone(tmp_path: Path) -> None:
    for name, more in (("child", {"LARGESCALE_RANK": "1"}), ("program", {"TORCHELASTIC_RUN_ID": ""})):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHELASTIC_RUN_ID": "x", **more}
        if not environment["TORCHELASTIC_RUN_ID"]:
            del environment["TORCHELASTIC_RUN_ID"]
        asked = "import ctypes, largescale; x = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(x)); print(x.value)"
        done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "0", name
