"""The index of a folder of pictures."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from largescale import Model
from largescale.search.index import Index
from largescale.search.source import add_files, files
from largescale.search.writer import writing
from largescale.settings import UserError
from tests.search.photos import bomb, make_model, make_photos


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
def test_build_and_search_by_file_picture_key_box_and_several(model: Model, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "my photos")
    index = Index.build(model, photos, tmp_path / "index")
    assert len(index) == 20
    path = photos / "label 0" / "søk 検索 2.jpg"
    hits = index.search(path, k=3)
    assert (hits[0].key, hits[0].path, hits[0].label) == ("label 0/søk 検索 2.jpg", str(path), "label 0")
    assert (hits[0].width, hits[0].height) == (96, 72)
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert index.search(Image.open(path), k=3)[0].key == hits[0].key
    assert index.search(path.read_bytes(), k=3) == hits
    by_key = index.search(key="label 0/søk 検索 2.jpg", k=2)
    assert [hit.key for hit in by_key] == [hit.key for hit in hits[1:]]
    whole = index.search(path, k=20, box=(0, 0, 96, 72))
    part = index.search(path, k=20, box=(10, 5, 60, 70))
    assert [hit.score for hit in whole[:3]] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert [hit.score for hit in part] != [hit.score for hit in whole]
    assert index.search(key=hits[0].key, k=19, box=(10, 5, 60, 70))[0] in part
    several = [str(photos / f"label 3/view {view}.jpg") for view in (0, 1)]
    rows = model.embed(several)
    mean = rows.mean(0) / np.linalg.norm(rows.mean(0))
    found = index.search(several, k=1)[0]
    assert found.score == pytest.approx(float(model.embed([found.path])[0] @ mean), abs=1e-5)
    assert all(hit.key.startswith("label 4/") for hit in index.search(path, path="label 4/*"))
    with Image.open(io.BytesIO(index.thumbnail(hits[0].key) or b"")) as small:
        assert (small.format, small.size) == ("JPEG", (96, 72))


@pytest.mark.slow
def test_an_index_stays_in_the_numbers_in_which_it_was_built(model: Model, tmp_path: Path) -> None:
    """On whatever processor pictures are added and asked for."""
    assert model.settings.precision == "auto"
    photos = make_photos(tmp_path / "photos", labels=1)
    rough, exact = (model.computing_in(precision) for precision in ("bf16", "fp32"))
    Index.build(exact, photos, tmp_path / "index")
    index = Index.open(tmp_path / "index", rough)
    assert index.view.manifest.precision == "fp32"
    path = next(photos.rglob("*.jpg"))
    assert np.array_equal(index.describe([path]), exact.embed([path]))
    assert not np.array_equal(index.describe([path]), rough.embed([path]))


@pytest.mark.slow
def test_questions_that_cannot_be_answered(model: Model, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", labels=1)
    index = Index.build(model, photos, tmp_path / "index")
    path = next(photos.rglob("*.jpg"))
    cases = [
        ({}, "needs pictures, or the key"),
        ({"pictures": path, "key": "a"}, "not both"),
        ({"pictures": []}, "found an empty list"),
        ({"key": "nobody.jpg"}, "'nobody.jpg' is not in the index"),
        ({"pictures": [path, path], "box": (0, 0, 9, 9)}, "belongs to one picture"),
        ({"pictures": path, "box": (0, 0, 900, 9)}, "not inside its 96 x 72 pixels"),
        ({"key": "label 0/søk 検索 0.jpg", "box": (0, 0, 9)}, "cannot be used: a box is four numbers"),
        ({"pictures": path, "labels": "x"}, "unknown setting 'labels'; did you mean label"),
        ({"pictures": b"GIF89a"}, "cannot be used"),
        ({"pictures": tmp_path / "nothing.jpg"}, "No such file"),
    ]
    for question, message in cases:
        with pytest.raises(UserError, match=message):
            index.search(**question)
    with pytest.raises(UserError, match="opened without its model"):
        Index.open(tmp_path / "index").search(path)
    other = make_model(tmp_path / "other")
    object.__setattr__(other, "digest", "of another network")
    with pytest.raises(UserError, match="descriptors cannot be compared"):
        Index.open(tmp_path / "index", other)


@pytest.mark.slow
def test_a_folder_that_changes(model: Model, tmp_path: Path) -> None:
    """What is new is added, what has changed is replaced, what is no picture is counted and named."""
    photos = make_photos(tmp_path / "photos", labels=2)
    index = Index.build(model, photos, tmp_path / "index")
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("no picture")
    (photos / "half.jpg").write_bytes((photos / "label 1/view 0.jpg").read_bytes()[:900])
    (photos / "bomb.png").write_bytes(bomb(30_000))
    Image.new("RGB", (80, 60), "red").save(photos / "label 1/view 3.jpg")
    Image.new("RGB", (80, 60), "blue").save(photos / "new.jpg")
    os.symlink(tmp_path / "nowhere.jpg", photos / "broken link.jpg")
    os.mkfifo(photos / "pipe.jpg")
    for name in (b"line\nbreak.jpg", b"\xff.jpg"):
        shutil.copy(photos / "new.jpg", os.fsencode(photos) + b"/" + name)
    before = index.search(key="label 1/view 3.jpg", k=1)
    added = index.add(photos)
    assert (added.added, added.replaced, added.unchanged) == (1, 1, 7)
    strange = {"line\ufffdbreak.jpg", "\ufffd.jpg"}
    assert set(added.bad) == {"empty.jpg", "text.png", "half.jpg", "bomb.png", "pipe.jpg"} | strange
    assert added.bad["pipe.jpg"] == "no regular file"
    assert "empty" in added.bad["empty.jpg"]
    assert "pixels" in added.bad["bomb.png"]
    assert "1 added, 1 replaced, 7 unchanged, 0 gone, 7 bad\n" in str(added)
    assert len(index) == 9
    assert index.search(key="label 1/view 3.jpg", k=1) != before
    listed = files(photos)
    (photos / "new.jpg").unlink()
    (photos / "label 0").rename(photos / "label 9")
    with writing(tmp_path / "index") as writer:
        writer.remove(np.arange(4))
        assert add_files(writer, model, listed).gone == 4
    with pytest.raises(UserError, match=r"view 0.jpg is in the index already, from .*would replace it"):
        index.add(make_photos(tmp_path / "others", labels=2))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        index.add(tmp_path / "nothing")
    assert index.add(tmp_path / "others", prefix="others/").added == 8


@pytest.mark.slow
def test_a_stop_keeps_what_was_described(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("largescale.search.source.AT_ONCE", 3)
    photos = make_photos(tmp_path / "photos")
    index = Index.create(tmp_path / "index", model.dim, model=model)
    asked = iter([False, False, True])
    with writing(index.folder) as writer:
        added = add_files(writer, model, files(photos), should_stop=lambda: next(asked))
    assert (added.stopped, added.added, len(index.refresh())) == (True, 6, 6)
    assert index.add(photos).added == 14
