import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from largescale.settings import UserError
from shards.sources import Item, Skipped
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


@pytest.mark.slow
def test_images_are_found_and_read_in_place(root: Path) -> None:
    source = Tars(root)
    items = list(source.items())
    assert [item.key for item in items] == ["00000/000000000", "00000/000000002", "00001/000010000"]
    assert [item.label for item in items] == [None, None, None]
    assert [source.read(item.place) for item in items] == list(IMAGES.values())


@pytest.mark.slow
def test_labels_come_from_a_field_of_the_json(root: Path) -> None:
    assert [item.label for item in Tars(root, "place").items()] == ["Rome", None, "7"]
    write_tar(root / "00002.tar", {"1.JPG": b"1", "1.JSON": facts(place="Oslo")})
    assert [item.label for item in Tars(root, "place").items()] == ["Rome", None, "7", "Oslo"]
    with pytest.raises(UserError, match=r"has no field 'klass'; it has: url, status, place"):
        list(Tars(root, "klass").items())


@pytest.mark.slow
def test_tars_in_folders_keep_equal_names_apart(tmp_path: Path) -> None:
    write_tar(tmp_path / "a" / "0.tar", {"x/1.jpg": b"1"})
    write_tar(tmp_path / "b" / "0.tar", {"x/1.jpg": b"2"})
    source = Tars(tmp_path)
    assert [(item.key, source.read(item.place)) for item in source.items()] == [("a/0/x/1", b"1"), ("b/0/x/1", b"2")]
    assert tar_files(tmp_path) == ["a/0.tar", "b/0.tar"]


@pytest.mark.slow
@pytest.mark.parametrize("length", [700, 100, 1300])
def test_a_truncated_tar_is_named(root: Path, length: int) -> None:
    os.truncate(root / "00001.tar", length)
    with pytest.raises(UserError, match=r"00001\.tar is no tar that can be read to its end"):
        list(Tars(root).items())


def test_a_folder_without_tars_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no \.tar below"):
        list(Tars(tmp_path).items())


@dataclass
class Member:
    """One entry of a tar."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    target: str = ""


def write_members(path: Path, members: list[Member], format: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size, info.type, info.linkname = len(member.data), member.kind, member.target
            tar.addfile(info, io.BytesIO(member.data))
    return path


def listed(root: Path, label_field: str | None = None) -> tuple[dict[str, str | None], dict[str, str]]:
    """Labels of the images by key, each of which can be read; reasons of what is left out by place."""
    source = Tars(root, label_field)
    found = source.index("0.tar")
    items = [item for item in found if isinstance(item, Item)]
    assert all(source.read(item.place) in (*IMAGES.values(), b"mask") for item in items)
    return {item.key: item.label for item in items}, {entry.place: entry.reason for entry in found if isinstance(entry, Skipped)}


A, B, _ = IMAGES.values()
LINK, SYMLINK = tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_long_names_and_versions(tmp_path: Path, format: int) -> None:
    long = f"{'deep/' * 40}{'x' * 150}_é.jpg"
    members = [
        Member("d/a.jpg", A),
        Member("d/hard.jpg", kind=LINK, target="d/a.jpg"),
        Member("d/soft.jpg", kind=SYMLINK, target="../d/hard.jpg"),
        Member("d/lost.jpg", kind=SYMLINK, target="/etc/a.jpg"),
        Member("d/ring.jpg", kind=SYMLINK, target="ring.jpg"),
        Member(long, B),
        Member("./b.jpg", A),
        Member("b.jpg", B),
        Member("pipe.jpg", kind=tarfile.FIFOTYPE),
    ]
    write_members(tmp_path / "0.tar", members, format)
    items, skipped = listed(tmp_path)
    names = ["d/a", "d/hard", "d/soft", long.removesuffix(".jpg"), "b"]
    assert sorted(items) == sorted(f"0/{name}" for name in names)
    assert skipped == {
        "0.tar/d/lost.jpg": "a link to nothing in the archive",
        "0.tar/d/ring.jpg": "a link to nothing in the archive",
        "0.tar/b.jpg": "an earlier version of a file",
        "0.tar/pipe.jpg": "no regular file",
    }


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\nb.jpg"])
def test_names_that_nobody_gives_to_a_photograph_are_refused(tmp_path: Path, name: str) -> None:
    write_members(tmp_path / "0.tar", [Member("a.jpg", A), Member(name, B)])
    with pytest.raises(UserError, match=r"0\.tar has a member named .* nothing of this archive is taken"):
        listed(tmp_path)


def test_a_name_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    write_members(tmp_path / "0.tar", [Member("a.jpg", A), Member("caf\udce9.jpg", B)])
    assert listed(tmp_path) == ({"0/a": None}, {r"0.tar/caf\udce9.jpg": "its name is not UTF-8"})


@pytest.mark.slow
def test_files_with_holes_and_compressed_tars_are_left_out_and_named(tmp_path: Path) -> None:
    """As GNU tar writes them with --sparse, in its form 0.1: a map of what is stored."""
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, headers in ("whole.jpg", {}), ("holes.jpg", {"GNU.sparse.map": "0,512", "GNU.sparse.size": "4096"}):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 512, headers
            tar.addfile(info, io.BytesIO(bytes(512)))
    (tmp_path / "1.tar.gz").write_bytes(b"")
    item, *skipped = Tars(tmp_path).items()
    assert item.key == "0/whole"  # type: ignore[union-attr]
    assert skipped == [Skipped("0.tar/holes.jpg", "a sparse file"), Skipped("1.tar.gz", "a compressed tar")]


def test_what_macos_adds_is_no_image(tmp_path: Path) -> None:
    names = ["photos/._1.jpg", "photos/1.jpg", "__MACOSX/photos/._1.jpg", ".hidden/2.jpg", "./2.jpg"]
    write_members(tmp_path / "0.tar", [Member(name, A if name[-5] in "12" else b"") for name in names])
    assert listed(tmp_path) == ({"0/photos/1": None, "0/2": None}, {})


def test_a_mask_is_not_taken_for_a_photograph(tmp_path: Path) -> None:
    sample = [Member("a.jpg", A), Member("a.mask.png", b"mask"), Member("a.json", b'{"label": 1}'), Member("a.npy", b"x")]
    write_members(tmp_path / "0.tar", sample)
    skipped = {"0.tar/a.mask.png": "a second picture of a sample", "0.tar/a.npy": "no image (.npy)"}
    assert listed(tmp_path, "label") == ({"0/a": "1"}, skipped)
    write_members(tmp_path / "0.tar", [Member("a.left.jpg", A), Member("a.right.jpg", B), Member("a.json", b'{"label": 1}')])
    with pytest.raises(UserError, match=r"several images of one sample, a\.left\.jpg and a\.right\.jpg beside a\.json"):
        listed(tmp_path, "label")


def test_dots_in_names_keep_labels_apart(tmp_path: Path) -> None:
    names = [f"IMG_2019.05.{day}" for day in (1, 2)]
    samples = [[Member(f"{name}.jpg", A), Member(f"{name}.json", facts(place=name))] for name in names]
    write_members(tmp_path / "0.tar", [member for sample in samples for member in sample])
    assert listed(tmp_path, "place")[0] == {f"0/{name.replace('.', '_')}": name for name in names}
    assert len(listed(tmp_path)[0]) == 2


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        (b"", "is no JSON"),
        (b'{"label": "a', "is no JSON"),
        ('{"label": "é"}'.encode("latin-1"), "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'["a"]', "no field 'label'; it has: a list"),
        (b"7", "no field 'label'; it has: a int"),
        (b'{"label": ["a"]}', "a label is a text or a number"),
    ],
    ids=["empty", "cut", "latin", "deep", "list", "number", "list of labels"],
)
def test_sidecars_that_are_none_are_named(tmp_path: Path, sidecar: bytes, message: str) -> None:
    write_members(tmp_path / "0.tar", [Member("a.jpg", A), Member("a.json", sidecar)])
    with pytest.raises(UserError, match=rf"0\.tar/a\.json.*{message}"):
        listed(tmp_path, "label")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[: data.index(b"b.jpg")], "end mark is missing"),
        (lambda data: data + data, "put together by cat"),
        (lambda data: data.replace(b"00000001000\0", b"\x80\0\0\0\0\x04\0\0\0\0\0\0", 1), "no tar that can be read to its end"),
        (lambda data: b"\x1f\x8b" + data, "no tar that can be read to its end"),
    ],
    ids=["between two members", "joined", "a petabyte", "compressed"],
)
def test_tars_that_do_not_end_where_they_should(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    path = write_members(tmp_path / "0.tar", [Member("a.jpg", A[:512]), Member("b.jpg", B)])
    data = path.read_bytes()
    assert b"00000001000\0" in data
    changed = change(data)
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(UserError, match=message):
        Tars(tmp_path).index("0.tar")
