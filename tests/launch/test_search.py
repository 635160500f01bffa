"""launch/search.py in process: every verb, and what it says."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.search import source
from largescale.search.index import Index
from largescale.settings import UserError
from launch import search
from tests.search.photos import make_model, make_photos
from tests.search.rows import DIM, keys, unit_rows


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, photographs of which two are copies, and an index of them."""
    home = tmp_path_factory.mktemp("home")
    make_model(home / "model")
    photos = make_photos(home / "photos")
    (photos / "copy of 1.jpg").write_bytes((photos / "label 1/view 1.jpg").read_bytes())
    search.main(["build", f"model={home / 'model'}", f"source={photos}", f"index={home / 'index'}"])
    return home


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    search.main(list(arguments))
    return capsys.readouterr().out


def test_help_of_each_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(f"  {verb} " in _said(capsys) for verb in search.VERBS)
    for verb in search.VERBS:
        assert f"launch/search.py {verb}" in _said(capsys, verb, "--help")
    with pytest.raises(UserError, match=r"there is no verb .find.; did you mean build\? known are build, add,"):
        search.main(["find"])
    with pytest.raises(UserError, match=r"give one of the two pairs"):
        search.main(["build", "index=a", "model=b"])


@pytest.mark.slow
def test_query(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, picture = f"index={home / 'index'}", home / "photos" / "label 1" / "view 1.jpg"
    lines = _said(capsys, "query", index, f"pictures=[{picture}]", "k=2").splitlines()
    assert [line.split("\t")[1:] for line in lines] == [["copy of 1.jpg", ""], ["label 1/view 1.jpg", "label 1"]]
    assert all(line.startswith("1.0000\t") for line in lines)
    lines = _said(capsys, "query", index, "key=label 1/view 1.jpg", "k=3", "label=label*").splitlines()
    assert len(lines) == 3
    assert "label 1/view 1.jpg" not in "".join(lines)
    part = _said(capsys, "query", index, f"pictures=[{picture}]", "box=[5, 5, 60, 60]", "k=1")
    assert float(part.split("\t")[0]) < 0.9999
    with pytest.raises(UserError, match="there is no index in"):
        search.main(["query", f"index={home / 'photos'}", "key=a"])


@pytest.mark.slow
def test_add_remove_and_what_is_missing(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    more, index = make_photos(tmp_path / "more", labels=2), f"index={home / 'index'}"
    assert "8 added, 0 replaced, 0 unchanged, 0 gone, 0 bad" in _said(capsys, "add", index, f"source={more}", "prefix=more/")
    next(more.glob("label 1/*")).unlink()
    assert _said(capsys, "remove", index, "missing=true") == "1 removed, 28 left\n"
    with pytest.raises(UserError, match="nobody: not in the index, so nothing was removed"):
        search.main(["remove", index, "keys=[nobody, copy of 1.jpg]"])
    assert _said(capsys, "remove", index, "path=more/*") == "7 removed, 21 left\n"


@pytest.mark.slow
def test_duplicates(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    index = f"index={home / 'index'}"
    text = _said(capsys, "duplicates", index, "threshold=0.99999")
    assert text.splitlines() == ["1 groups of 2 pictures", "1\t1.0000\tcopy of 1.jpg", "1\t1.0000\tlabel 1/view 1.jpg"]
    assert "threshold 0." in (made := _said(capsys, "duplicates", index, f"out={tmp_path / 'groups.txt'}"))
    assert "from 21 known duplicates" in made
    assert "copy of 1.jpg" in (tmp_path / "groups.txt").read_text()
    (tmp_path / "known").write_text("label 2/view 0.jpg\tlabel 2/view 1.jpg\nlabel 3/view 0.jpg\tlabel 3/view 2.jpg\n")
    assert "from 2 known duplicates" in _said(capsys, "duplicates", index, f"known={tmp_path / 'known'}")
    (tmp_path / "known").write_text("label 2/view 0.jpg\tnobody\n")
    with pytest.raises(UserError, match=r"label 2/view 0.jpg or nobody is not in the index"):
        search.main(["duplicates", index, f"known={tmp_path / 'known'}"])


def test_rows_from_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "rows.npy", unit_rows(50))
    (tmp_path / "names.txt").write_text("\n".join(keys(50)) + "\n")
    given = (f"rows={tmp_path / 'rows.npy'}", f"names={tmp_path / 'names.txt'}", f"index={tmp_path / 'index'}")
    assert "50 rows, exact" in _said(capsys, "build", *given)
    assert Index.open(tmp_path / "index").view.manifest.dim == DIM
    assert len(_said(capsys, "query", f"index={tmp_path / 'index'}", "key='00003'", "k=5").splitlines()) == 5
    with pytest.raises(UserError, match="does not say where its model is"):
        search.main(["query", f"index={tmp_path / 'index'}", "pictures=[a.jpg]"])
    with pytest.raises(UserError, match=r"holds an index; python launch/search.py add adds to it"):
        search.main(["build", *given])


@pytest.mark.slow
def test_an_altered_model_is_refused(home: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", labels=1)
    make_model(tmp_path / "model")
    search.main(["build", f"model={tmp_path / 'model'}", f"source={photos}", f"index={tmp_path / 'index'}"])
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    add = ["add", f"index={tmp_path / 'index'}", f"source={photos}"]
    with pytest.raises(UserError, match="damaged or was exchanged"):
        search.main(add)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"was at .*/model, and is not there any more: give model=… where it is now"):
        search.main(add)


@pytest.mark.slow
def test_a_signal_keeps_what_was_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "AT_ONCE", 2)
    real = source.describe

    def described(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(source, "describe", described)
    photos = make_photos(tmp_path / "photos")
    make_model(tmp_path / "model")
    said = _said(capsys, "build", f"model={tmp_path / 'model'}", f"source={photos}", f"index={tmp_path / 'index'}")
    assert "2 added, " in said
    assert "stopped; continue with: python launch/search.py add" in said
    monkeypatch.undo()
    more = _said(capsys, "add", f"index={tmp_path / 'index'}", f"source={photos}")
    assert "18 added, 0 replaced, 2 unchanged" in more
