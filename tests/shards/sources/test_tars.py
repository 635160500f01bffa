import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from largescale.settings import UserError
from shards.sources.tars import Tars, tar_files
from tests.corpora import encode, photograph

IMAGES = {name: encode(photograph(number, 0, 20, 20)) for number, name in enumerate(["000000000", "000000002", "000010000"])}


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def facts(**values: object) -> bytes:
    return json.dumps({"url": "http://x/y.jpg", "status": "success"} | values).encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    first, third, other = IMAGES
    failed = {"000000001.json": facts(place="Paris", status="failed_to_download"), "000000001.txt": b"gone"}
    texts = {f"{first}.txt": b"a caption"}
    one = {f"{first}.json": facts(place="Rome"), f"{first}.jpg": IMAGES[first], **texts, **failed}
    write_tar(tmp_path / "00000.tar", one | {f"{third}.jpg": IMAGES[third], f"{third}.json": facts(place=None)})
    write_tar(tmp_path / "00001.tar", {f"{other}.jpg": IMAGES[other], f"{other}.json": facts(place=7)})
    (tmp_path / "00000_stats.json").write_text("{}")
    return tmp_path


def test_images_are_found_and_read_in_place(root: Path) -> None:
    source = Tars(root)
    items = list(source.items())
    assert [item.key for item in items] == ["00000/000000000", "00000/000000002", "00001/000010000"]
    assert [item.label for item in items] == [None, None, None]
    assert [source.read(item.place) for item in items] == list(IMAGES.values())


def test_labels_come_from_a_field_of_the_json(root: Path) -> None:
    assert [item.label for item in Tars(root, "place").items()] == ["Rome", None, "7"]
    with pytest.raises(UserError, match=r"has no field 'klass'; it has: url, status, place"):
        list(Tars(root, "klass").items())


def test_tars_in_folders_keep_equal_names_apart(tmp_path: Path) -> None:
    write_tar(tmp_path / "a" / "0.tar", {"x/1.jpg": b"1"})
    write_tar(tmp_path / "b" / "0.tar", {"x/1.jpg": b"2"})
    source = Tars(tmp_path)
    assert [(item.key, source.read(item.place)) for item in source.items()] == [("a/0/x/1", b"1"), ("b/0/x/1", b"2")]
    assert tar_files(tmp_path) == ["a/0.tar", "b/0.tar"]


@pytest.mark.parametrize("length", [700, 100, 1300])
def test_a_truncated_tar_is_named(root: Path, length: int) -> None:
    os.truncate(root / "00001.tar", length)
    with pytest.raises(UserError, match=r"00001\.tar is no tar that can be read to its end"):
        list(Tars(root).items())


def test_a_folder_without_tars_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no \.tar below"):
        list(Tars(tmp_path).items())
