import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from largescale.locks import Lease
from tests.conftest import ROOT

HOLD = """
import os, sys, time
from pathlib import Path
from largescale.locks import Lease
lease = Lease(Path(sys.argv[1]))
while lease.acquire():
    time.sleep(0.01)
if os.fork() == 0:  # as a loader worker, which outlives its parent for a while
    time.sleep(2)
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_one_process_holds_it_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lease"
    first = hold(path)
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == "held\n"
        lease = Lease(path)
        assert (lease.acquire() or "").startswith(f"process {first.pid} on ")
    finally:
        first.kill()
        first.wait()
    end = time.monotonic() + 1  # its child lives on, the lease does not
    while lease.acquire():
        assert time.monotonic() < end
    assert lease.acquire() is None
    assert path.read_text().startswith(f"process {os.getpid()} on ")
