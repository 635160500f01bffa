import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.corpus.manifest import Manifest, Shard, sha256_of, write_manifest
from largescale.settings import UserError
from shards.images import Encoding
from shards.sources.folder import Folder
from shards.verify import Unchecked, faults_of, verify
from shards.writer import build
from tests.corpora import change_manifest
from tests.shards.photographs import shard, write_photographs

NAMES = [f"{label}/{number:02d}.jpg" for label in "ab" for number in range(32)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    build(Folder(write_photographs(folder / "in", NAMES)), folder / "out", Encoding(max_side=32), workers=1)
    return folder / "out"


@pytest.fixture
def corpus(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "corpus"))


def faults(corpus: Path) -> list[str]:
    return [re.sub(r"^\S+-(\d{5}\.tar)", r"\1", fault) for fault in faults_of(corpus, 1)]


def rewrite(corpus: Path, **columns: Any) -> None:
    """The same corpus with other columns, hashes and all."""
    manifest = Manifest.open(Unchecked(corpus))
    images = {name: np.asarray(column) for name, column in manifest.columns.items() if name != "key"}
    images["key"] = manifest.keys.to_pylist()
    pairs, truth = columns.pop("pairs", None), columns.pop("ground_truth", None)
    shards = [Shard(s.name, s.samples, (corpus / s.name).stat().st_size, sha256_of(corpus / s.name)) for s in manifest.shards]
    write_manifest(corpus, "x", shards, images | columns, manifest.label_names.to_pylist(), {}, pairs, truth)


@pytest.mark.slow
def test_a_sound_corpus_has_no_faults(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(corpus, 2) == 0
    assert "no faults" in capsys.readouterr().out


@pytest.mark.slow
def test_a_rewritten_sound_corpus_has_no_faults(corpus: Path) -> None:
    query = {"key": "a/01", "box": None, "ok": ["b/31"]}
    truth = {"protocol": "oxford5k", "queries": [query], "gallery": None}
    rewrite(corpus, pairs={"query": [0, 63], "positive": [1, 62]}, ground_truth=truth)
    assert faults(corpus) == []


@pytest.mark.slow
def test_faults_are_printed_and_the_status_says_so(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = shard(corpus, 2).name
    shard(corpus, 2).unlink()
    assert verify(corpus, 1) == 1
    assert capsys.readouterr().out.splitlines() == [f"{name}: missing", f"{corpus}: 1 fault"]


@pytest.mark.slow
def test_missing_extra_and_truncated_shards(corpus: Path) -> None:
    shard(corpus, 2).unlink()
    shutil.copy(shard(corpus, 1), corpus / shard(corpus, 1).name.replace("00001", "00008"))
    size = shard(corpus, 4).stat().st_size
    os.truncate(shard(corpus, 4), 6000)
    extra, missing, truncated, *cut = faults(corpus)
    assert extra == "00008.tar: the manifest knows no such shard"
    assert missing == "00002.tar: missing"
    assert truncated == f"00004.tar: expected {size:,} bytes, found 6,000"
    assert any("images of the manifest are not in it, the first being b/0" in fault for fault in cut)


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0xFF]))


@pytest.mark.slow
def test_a_flipped_byte_changes_the_hash(corpus: Path) -> None:
    flip(shard(corpus, 3), shard(corpus, 3).stat().st_size - 1)
    (fault,) = faults(corpus)
    assert fault.startswith("00003.tar: expected SHA-256")


@pytest.mark.slow
def test_a_destroyed_image_is_named(corpus: Path) -> None:
    manifest = Manifest.open(Unchecked(corpus))
    row = int(manifest.shard_start[5]) + 2
    flip(shard(corpus, 5), int(manifest.offset[row]))
    wrong_hash, undecodable = faults(corpus)
    assert wrong_hash.startswith("00005.tar: expected SHA-256")
    assert undecodable.startswith(f"00005.tar: {manifest.keys[row]}: cannot be decoded (no picture of a format that is read")


def renamed(corpus: Path, name: str, new: str) -> None:
    """The first shard with a member of another name, everything else in place."""
    path = shard(corpus, 0)
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member)) for member in tar]
        with tarfile.open(corpus / "new", "w") as changed:
            for member, data in members:
                member.name = new if member.name == name else member.name
                changed.addfile(member, data)
    (corpus / "new").replace(path)


@pytest.mark.slow
def test_keys_of_tar_and_columns_differ(corpus: Path) -> None:
    renamed(corpus, "a/03.jpg", "a/zz.jpg")
    rewrite(corpus)
    assert faults(corpus) == [
        "00000.tar: 1 images of the manifest are not in it, the first being a/03",
        "00000.tar: holds 1 members that the manifest does not know, the first being a/zz.jpg",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "change", "fault"),
    [
        ("offset", 512, r"00002\.tar: a/20: expected [\d,]+ bytes at [\d,]+, found [\d,]+ at [\d,]+"),
        ("size", 1, r"00002\.tar: a/20: expected [\d,]+ bytes at [\d,]+, found [\d,]+ at [\d,]+"),
        ("width", 1, r"00002\.tar: a/20: expected 33 x 24 pixels, found 32 x 24"),
        ("height", -1, r"00002\.tar: a/20: expected 32 x 23 pixels, found 32 x 24"),
        ("shard", 2, r"images\.arrow: the column of shards does not fit"),
        ("label", 1, r"images\.arrow: the images of 2 labels are not contiguous, the first being label 0"),
        ("label", -2, r"images\.arrow: labels reach from -2 to 1"),
    ],
)
def test_wrong_columns(corpus: Path, column: str, change: int, fault: str) -> None:
    values = np.array(Manifest.open(Unchecked(corpus)).columns[column])
    values[20] += change
    rewrite(corpus, **{column: values})
    assert any(re.match(fault, found) for found in faults(corpus))


@pytest.mark.slow
def test_repeated_keys(corpus: Path) -> None:
    keys = Manifest.open(Unchecked(corpus)).keys.to_pylist()
    rewrite(corpus, key=[*keys[:-1], keys[0]])
    assert "images.arrow: 1 keys repeat an earlier one" in faults(corpus)


@pytest.mark.slow
def test_pairs_and_ground_truth_beyond_the_images(corpus: Path) -> None:
    query = {"key": "a/01", "box": None, "ok": ["b/31", "b/99"], "junk": ["a/77"]}
    truth = {"protocol": "oxford5k", "queries": [query], "gallery": None}
    rewrite(corpus, pairs={"query": [0, 64, 70], "positive": [1, 2, -1]}, ground_truth=truth)
    assert faults(corpus) == [
        "pairs.arrow: 2 of column query are no image, the first being 64 of 64",
        "pairs.arrow: 1 of column positive are no image, the first being -1 of 64",
        "ground_truth.json: names 2 keys that images.arrow lacks, the first being a/77",
    ]


@pytest.mark.parametrize("name", ["images.arrow", "labels.arrow"])
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: os.truncate(path, 100), "expected .* bytes, found 100"),
        (lambda path: flip(path, path.stat().st_size // 2), "expected SHA-256"),
    ],
)
def test_damaged_columns(corpus: Path, name: str, damage: Callable[[Path], None], fault: str) -> None:
    damage(corpus / name)
    found, consequence = faults(corpus)
    assert re.match(f"{name}: {fault}", found)
    assert consequence == "the shards were not compared with damaged columns"


def test_counts_and_fingerprint_of_the_manifest(corpus: Path) -> None:
    values = json.loads((corpus / "manifest.json").read_text())
    change_manifest(corpus, fingerprint="0" * 16)
    (fault,) = faults(corpus)
    assert "its fingerprint is not that of its shards and files" in fault
    values["shards"][0]["samples"] += 1
    change_manifest(corpus, shards=values["shards"])
    assert faults(corpus)[0].startswith(f"{corpus}/manifest.json counts 65 images")


def test_no_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no corpus, or one whose build has not finished"):
        faults(tmp_path)
