"""Images that are listed and read where they are: whatever holds them, the same bytes under names of their own."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from largescale.corpus.images import BadImageError
from largescale.distributed import World
from largescale.settings import UserError
from shards.in_place import ListedPlaces, open_source
from tests.corpora import encode, make_corpus, photograph
from tests.evaluation.small import alone

NAMES = ["a.jpg", "deep/b c.jpg", "deep/ünï.jpg"]
BYTES = {name: encode(photograph(i, 0, 60, 45)) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def world() -> World:
    with alone() as world:
        yield world


def make_folder(root: Path) -> str:
    for name, data in BYTES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def make_list(root: Path) -> str:
    make_folder(root)
    (root / "list.txt").write_text("\n".join(NAMES[::2]) + "\n")
    return str(root / "list.txt")


def make_tar(root: Path) -> str:
    root.mkdir()
    with tarfile.open(root / "photos.tar", "w") as tar:
        for name, data in BYTES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(root / "photos.tar")


def make_parquet(root: Path) -> str:
    root.mkdir()
    images = [{"bytes": data, "path": name} for name, data in BYTES.items()]
    table = pa.table({"path": NAMES, "image": images})
    pq.write_table(table, root / "photos.parquet", row_group_size=2)
    return str(root)


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (make_folder, NAMES),
        (make_list, NAMES[::2]),
        (make_tar, ["photos/a", "photos/deep/b c", "photos/deep/ünï"]),
        (make_parquet, [f"photos/{number:08d}" for number in range(3)]),
    ],
)
def test_every_source_gives_the_bytes_and_the_names(
    tmp_path: Path, world: World, make: Callable[[Path], str], keys: list[str]
) -> None:
    found = open_source(make(tmp_path / "source"), tmp_path / "listing", world)
    assert found.corpus.manifest.keys.to_pylist() == keys
    assert found.faults == {}
    expected = [BYTES[name] for name in (NAMES[::2] if make is make_list else NAMES)]
    assert found.corpus.read(found.ids) == expected
    assert [id for id, _ in found.corpus.stream(0)] == found.ids.tolist()
    np.testing.assert_array_equal(found.corpus.manifest.width, 60)


def test_a_corpus_is_taken_as_it_is(tmp_path: Path, world: World) -> None:
    found = open_source(str(make_corpus(tmp_path / "corpus")), tmp_path / "listing", world)
    assert len(found.ids) == 24
    assert not (tmp_path / "listing").exists()


def test_what_has_no_header_is_named(tmp_path: Path, world: World) -> None:
    source = make_folder(tmp_path / "source")
    (tmp_path / "source" / "empty.jpg").touch()
    (tmp_path / "source" / "text.png").write_text("no picture")
    (tmp_path / "source" / "line\nbreak.jpg").write_bytes(BYTES["a.jpg"])
    found = open_source(source, tmp_path / "listing", world)
    keys = found.corpus.manifest.keys.to_pylist()
    assert {keys[id]: fault for id, fault in found.faults.items()} == {
        "empty.jpg": "no picture of a format that is read: it is empty",
        "text.png": "no picture of a format that is read: it begins with b'no pictu'",
        "line\nbreak.jpg": "its name has a line break or is not UTF-8",
    }
    assert [keys[id] for id in found.ids] == NAMES


def test_a_list_outlives_what_happens_to_its_folder(tmp_path: Path, world: World) -> None:
    source = make_folder(tmp_path / "source")
    open_source(source, tmp_path / "listing", world)
    (tmp_path / "source" / "a.jpg").unlink()
    (tmp_path / "source" / "new.jpg").write_bytes(BYTES["a.jpg"])
    found: ListedPlaces = open_source(source, tmp_path / "listing", world)
    assert found.corpus.manifest.keys.to_pylist() == NAMES
    gone, *rest = found.corpus.read(found.ids)
    assert rest == [BYTES[name] for name in NAMES[1:]]
    with pytest.raises(BadImageError, match="it cannot be read"):
        gone()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["nowhere", "empty", "bare.parquet", "broken.tar"])
def test_what_is_no_source_is_said(tmp_path: Path, world: World, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.tar").write_bytes(b"tar" * 300)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "bare.parquet")
    said = {
        "nowhere": "there is no source",
        "empty": "holds no image",
        "bare.parquet": "bare.parquet",
        "broken.tar": "is no tar that can be read to its end",
    }
    with pytest.raises(UserError, match=said[name]):
        open_source(str(tmp_path / name), tmp_path / "listing", world)


def test_a_slow_disk_is_asked_by_threads(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.in_place.BLOCK", 1)
    monkeypatch.setattr("shards.in_place.SLOW_S", 0)
    (tmp_path / "photos").mkdir()
    for side in range(40, 60):
        (tmp_path / "photos" / f"{side}.png").write_bytes(encode(photograph(0, 0, side, 30), "PNG"))
    found = open_source(str(tmp_path / "photos"), tmp_path / "listing", world)
    assert found.corpus.manifest.width.tolist() == list(range(40, 60))
