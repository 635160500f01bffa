"""launch/torchrun.py: after a sentence of ours nothing more, after any other failure what torchrun reports."""

import sys
from pathlib import Path

import pytest

from tests import programs

RANK = """
import sys
from largescale.program.running import run_program
from largescale.settings import UserError

def main(arguments):
    raise {}("optim.lr is no number")

run_program(main)
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("error", "status"), [("UserError", 2), ("ValueError", 1)])
def test_a_rank_that_says_what_is_wrong_is_not_reported(error: str, status: int, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(error))
    asked = [sys.executable, "launch/torchrun.py", "--standalone", "--nproc-per-node", "2", str(script)]
    done = programs.run(asked, {"OMP_NUM_THREADS": "1"})
    said = done.stderr.splitlines()
    assert done.returncode == status
    assert sum(line == "error: optim.lr is no number" for line in said) == (status == 2)
    assert ("ChildFailedError" in done.stderr) == (status == 1)
    if status == 2:
        assert len(said) <= 4  # torchrun notes which rank failed, and ranks that it still had to end
