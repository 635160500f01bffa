"""Every command and every line of Python of the two pages about search is run as it stands there."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import largescale
from largescale.config import load
from largescale.search.index import Index
from largescale.search.server.config import ServeConfig
from launch import search
from tests.search.database import database
from tests.search.photos import make_model, make_photos
from tests.search.served import serving

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_model(tmp_path / "runs" / "first" / "model")
    photos = make_photos(tmp_path / "photos", labels=3)
    shutil.copy(photos / "label 1" / "view 2.jpg", tmp_path / "query.jpg")
    shutil.copy(photos / "label 2" / "view 2.jpg", tmp_path / "other.jpg")
    (tmp_path / "secret.txt").write_text("a secret of some length")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _steps(page: str) -> Iterator[tuple[str, str]]:
    """(kind, text): commands one by one, Python block by block."""
    for kind, text in BLOCK.findall((DOCS / page).read_text()):
        if kind == "python":
            yield kind, text
        else:
            yield from (("command", line[2:]) for line in text.splitlines() if line.startswith("$ "))


@pytest.mark.slow
def test_search(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qdrant_client")
    names: dict = {}
    with database() as address:
        for kind, text in _steps("search.md"):
            if kind == "python":
                exec(text, names)
            else:
                program, name, *arguments = shlex.split(text)
                assert (program, name) == ("largescale", "search")
                search.main([argument.replace("postgresql://me@localhost/photos", address) for argument in arguments])
    assert len(names["mine"]) == 2
    said = capsys.readouterr()
    assert "12 added, 0 replaced, 0 unchanged" in said.out
    assert "100.00 % of the 20 nearest rows are found there" in said.out
    assert (home / "groups.txt").exists()


@pytest.mark.slow
def test_serve(home: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    index = Index.build(largescale.load("runs/first/model"), "photos", "photos.index")
    asked, addresses = 0, list[str]()
    with ExitStack() as stack:
        for _, text in _steps("serve.md"):
            if text.startswith("largescale search serve "):
                config = load(ServeConfig, shlex.split(text)[3:]).model_copy(update={"port": 0, "host": "127.0.0.1"})
                addresses.append(stack.enter_context(serving(index, config)))
            else:
                arguments = shlex.split(text.replace("http://127.0.0.1:8000/", addresses[0]))[1:]
                done = subprocess.run(["curl", "-sS", "--fail", *arguments], capture_output=True, text=True, check=False)
                assert done.returncode == 0, (text, done.stderr)
                asked += 1
        assert (home / "small.jpg").read_bytes()[:2] == b"\xff\xd8"
        assert (asked, len(addresses)) == (9, 2)
