"""The program that users start; what it does for a run is tested in tests/distributed/test_service.py."""

import shlex
import subprocess
import sys

import pytest

from tests import programs
from tests.conftest import ROOT
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT
from tests.test_readme import COMMANDS

GIVEN = ["decode=300", "forward=2000", "search=5e14", "network=1e10", "cores=16", "gpu=true", "descriptor_bytes=2"]


def ask(*arguments: str) -> subprocess.CompletedProcess:
    return programs.run([sys.executable, "launch/mine.py", *arguments], ENVIRONMENT)


@pytest.mark.slow
def test_help_and_a_plan_with_given_rates_need_no_torch():
    start = "import sys; sys.path.insert(0, 'launch'); import mine; "
    code = start + f"mine.main(['--help']); mine.main(['--plan', *{GIVEN}]); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "  timeout=600\n" in shown
    assert "  pool=1000000\n" in shown
    assert "bound by" in shown
    assert shown.endswith("False\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which run? usage: torchrun"),
        (["timeout=3"], "which run?"),
        (["runs/x", "timeou=3"], "unknown setting 'timeou'; did you mean timeout"),
        (["--plan", "pol=3"], "unknown setting 'pol'; did you mean pool"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(arguments, said):
    done = ask(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_plan_of_the_readme_measures_this_machine(tmp_path):
    [command] = [shlex.split(command) for command in COMMANDS if "launch/mine.py --plan" in command]
    corpus = make_corpus(tmp_path / "corpus", size=64)
    small = [f"corpus={corpus}", "backbone=timm:test_resnet", "size=64", "sample=8", "dim=256"]
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    whole = [*program, *command[1:], *small]
    done = programs.run(whole, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images to embed    231,250") == 1
    assert "bound by the neural network, on the processor" in done.stdout
