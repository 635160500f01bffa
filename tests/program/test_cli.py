import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from largescale.program.cli import PROGRAMS, called, for_torchrun, module_of
from largescale.program.extras import Extra
from largescale.settings import UserError
from tests.conftest import ROOT


def test_every_program_of_the_checkout_has_a_name() -> None:
    launched = {path.stem for path in (ROOT / "launch").glob("*.py")}
    assert launched | {"shards"} == set(PROGRAMS)
    assert module_of("train") == "launch.train"


def test_programs_are_named_as_this_one_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["launch/search.py"])
    named = called("search"), called("shards"), for_torchrun("embed")
    assert named == ("python launch/search.py", "python -m shards", "launch/embed.py")
    monkeypatch.setattr("sys.argv", ["largescale search"])
    named = called("search"), called("shards"), for_torchrun("embed")
    assert named == ("largescale search", "largescale shards", "-m largescale embed")


@pytest.mark.slow
def test_a_program_by_its_name() -> None:
    found = subprocess.run([sys.executable, "-m", "largescale", "compare"], capture_output=True, text=True, cwd="/", check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    asked = [sys.executable, "-m", "largescale", "export", "--help"]
    page = subprocess.run(asked, capture_output=True, text=True, cwd="/", check=True).stdout
    assert "usage: largescale export [MODEL] OUT" in page
    assert "photographs of several sizes" in page
    assert "launch/" not in page
    wrong = subprocess.run([sys.executable, "-m", "largescale", "trian"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "there is no program 'trian'; did you mean train? known are shards, train" in wrong.stderr


def test_a_missing_extra_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"a server needs nosuchmodule, .* pip install 'largescale\[serve\]'"):
        Extra("nosuchmodule", "serve", "a server").anything  # noqa: B018


@pytest.mark.slow
def test_the_wheel_has_what_the_checkout_has(tmp_path: Path) -> None:
    """Built, unpacked, and run away from the checkout."""
    for name in ("largescale", "shards", "launch", "configs"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, str(tmp_path / "source")], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names} == {"largescale", f"{wheel.name.split('-py3')[0]}.dist-info"}
    for path in (*ROOT.glob("launch/*.py"), *ROOT.glob("shards/**/*.py"), *ROOT.glob("configs/**/*.yaml")):
        assert f"largescale/{path.relative_to(ROOT)}" in names
    assert all(str(path.relative_to(ROOT)) in names for path in ROOT.glob("largescale/**/*.py"))
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "largescale", "shards", "demo", "corpora", "landmarks=2", "views=2"]
    command += ["test_landmarks=1", "test_views=2", "distractors=2", "size=32"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "corpora" / "train" / "manifest.json").exists()


def test_the_builders_can_be_moved_below_largescale() -> None:
    absolute = [path for path in ROOT.glob("shards/**/*.py") if "\nfrom shards" in path.read_text()]
    assert not absolute
