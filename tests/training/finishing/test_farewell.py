"""What a run says at its end: commands that a person can give again."""

import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from largescale.training.finishing.farewell import command_of

WORLD = cast(Any, SimpleNamespace(size=2, local_size=2))


@pytest.mark.parametrize(
    ("program", "named"), [("launch/train.py", "launch/train.py"), ("largescale train", "-m largescale train")]
)
def test_the_command_that_goes_on_names_the_program_as_it_was_started(
    program: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "corpus=a b"])
    assert command_of(WORLD, "first") == f"torchrun --nproc-per-node 2 {named} 'corpus=a b' name=first"
    monkeypatch.setattr(sys, "argv", [program, "name=second"])
    assert command_of(WORLD, "second") == f"torchrun --nproc-per-node 2 {named} name=second"
