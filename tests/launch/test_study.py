"""launch/study.py as a user starts it."""

import subprocess
import sys

from tests.conftest import ROOT


def launch(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"launch/{program}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_what_is_wrong_is_said_at_once() -> None:
    for arguments, error in [
        (["anchor"], "there is no study 'anchor'; known are anchors, conventions, decomposability, distractors, "),
        (["anchors"], "weights and gallery: a study embeds a corpus; give both"),
        (["anchors", "probe=3"], "unknown setting 'probe'; did you mean probes"),
    ]:
        found = launch("study", *arguments)
        assert found.returncode == 2
        assert error in found.stderr
        assert "Traceback" not in found.stderr
