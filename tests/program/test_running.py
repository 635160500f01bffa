"""How programs end where the place that they write to is at fault, and what they say of secrets."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.commit import write_array, write_json
from largescale.program.running import fault_of_place
from largescale.tensors import write_tensors
from shards.__main__ import main as shards
from tests.conftest import ROOT
from tests.shards.photographs import write_photographs

WRITES = {
    "array": lambda path: write_array(path, np.zeros(1 << 16)),
    "tensors": lambda path: write_tensors(path, {"x": torch.zeros(1 << 16)}),
    "document": lambda path: write_json(path, {"x": "y" * (1 << 18)}),
}
PROGRAM = """
import sys
from largescale.program.running import run_program
from largescale.settings import UserError
def main(arguments):
    raise {error}
run_program(main)
"""


@pytest.mark.parametrize("kind", WRITES)
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """A limit of the process stands for the disk: the errors are the same."""
    WRITES[kind](tmp_path / "before")
    whole = (tmp_path / "before").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(Exception) as error:  # noqa: PT011
            WRITES[kind](tmp_path / "before")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = fault_of_place(error.value) or repr(error.value)
    assert said.startswith(f"{tmp_path / 'before'}: ")
    assert said.endswith("make room, and give the same command again")
    assert (tmp_path / "before").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


def test_a_folder_that_cannot_be_written_ends_a_build_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "in", ["a/1.jpg", "a/2.jpg"])
    (tmp_path / "file").touch()
    assert shards(["build", str(tmp_path / "in"), "--out", str(tmp_path / "file" / "out"), "--layout", "folder"]) == 2
    assert "error: " in (said := capsys.readouterr().err)
    assert "file" in said
    assert "Traceback" not in said


def end(error: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_programs_end_with_a_sentence_and_repeat_no_secret() -> None:
    place = end("UserError('cannot reach https://alice:S3CRETPW@host/c?sig=S3CRETPW2 now')")
    assert (place.returncode, place.stderr) == (2, "error: cannot reach https://…@host/c?… now\n")
    full = end(f"OSError({errno.ENOSPC}, 'full', 'runs/a/x.tar')")
    assert (full.returncode, full.stderr.startswith("error: runs/a/x.tar: No space left on device while writing;")) == (2, True)
    other = end(f"OSError({errno.ENODEV}, 'no such device')")
    assert other.returncode != 2
    assert "Traceback" in other.stderr


def test_errors_of_other_things_stay_what_they_are() -> None:
    assert fault_of_place(ValueError("x")) is None
    assert fault_of_place(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x")) is None
