import os
from pathlib import Path

import pytest

from largescale.settings import UserError
from shards.sources import Item, Skipped
from shards.sources.files import key_of
from shards.sources.folder import Folder
from tests.shards.photographs import write_photographs


def described(source: Folder) -> list[tuple[str, str | None]]:
    return [(item.key, item.label) for item in source.items() if isinstance(item, Item)]


def test_label_is_the_folder_of_the_image(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["b/2.jpg", "b/1.JPEG", "a/deep/1.png", "top.webp", "b/notes.txt", ".hidden/x.jpg", "a/.x.jpg"])
    expected = [("a/deep/1", "a/deep"), ("b/1", "b"), ("b/2", "b"), ("top", None)]
    assert described(Folder(tmp_path)) == expected
    assert described(Folder(tmp_path, class_depth=1)) == [("a/deep/1", "a"), *expected[1:]]
    assert described(Folder(tmp_path, class_depth=0)) == [(key, None) for key, _ in expected]


def test_places_lead_back_to_the_files(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["b/1.jpg", "a/2.png"])
    source = Folder(tmp_path)
    assert {item.place: source.read(item.place) for item in source.items() if isinstance(item, Item)} == {
        name: (tmp_path / name).read_bytes() for name in ("a/2.png", "b/1.jpg")
    }


def test_images_are_known_by_their_content_and_the_rest_is_counted(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["a/1", "a/2.jpg_large", "a/3.png_orig"])
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / "a/sound.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    found = list(Folder(tmp_path).items())
    assert [item.key for item in found if isinstance(item, Item)] == ["a/1", "a/2", "a/3"]
    assert [item for item in found if isinstance(item, Skipped)] == [
        Skipped("a/notes.txt", "no image (.txt)"),
        Skipped("a/sound.wav", "no image (.wav)"),
    ]


def test_dots_of_a_name_become_underscores() -> None:
    assert [key_of(path) for path in ("a.b/img.001.jpg", "x.JPG", "v1.2/y.z.w.png")] == ["a.b/img_001", "x", "v1.2/y_z_w"]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_photographs(tmp_path / "elsewhere", ["1.jpg"])
    write_photographs(tmp_path / "in", ["a/1.jpg"])
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "linked")
    os.symlink(tmp_path / "in", tmp_path / "in" / "a" / "circle")
    assert described(Folder(tmp_path / "in")) == [("a/1", "a"), ("linked/1", "linked")]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        described(Folder(tmp_path / "nowhere"))


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photographs(tmp_path, ["a/1.jpg", "b/1.jpg"])
    scan = os.scandir

    def refused(folder: str) -> object:  # as the kernel refuses it to all but the superuser
        if folder.endswith("b"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"/b cannot be read \(Permission denied\), and its images would be missing"):
        list(Folder(tmp_path).items())
