import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from largescale.corpus.config import StorageConfig
from largescale.corpus.manifest import Manifest
from largescale.corpus.storage.storage import open_storage
from largescale.settings import UserError
from tests.corpora import change_manifest, make_corpus
from tests.corpus.synthetic import write_large_manifest


def open_at(folder: Path) -> Manifest:
    return Manifest.open(open_storage(str(folder), StorageConfig(cache=folder / "cache")))


@pytest.mark.slow
def test_columns_are_what_was_written(tmp_path: Path) -> None:
    manifest = open_at(make_corpus(tmp_path / "c", labels=3, per_label=2, shards=2, size=40, unlabeled=1, pairs=True))
    assert manifest.keys.to_pylist() == [f"{i:06d}" for i in range(7)]
    assert manifest.label.tolist() == [0, 0, 1, 1, 2, 2, -1]
    assert manifest.shard.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert manifest.shard_start.tolist() == [0, 4, 7]
    assert (set(manifest.width), set(manifest.height)) == ({40}, {30})
    assert manifest.label_names.to_pylist() == ["label 0", "label 1", "label 2"]
    assert manifest.pairs is not None
    assert manifest.pairs["positive"].tolist() == [1, 0, 3, 2, 5, 4]
    assert manifest.ground_truth is None


@pytest.mark.slow
def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    first, again, other = (open_at(make_corpus(tmp_path / name, labels=n)) for name, n in (("a", 3), ("b", 3), ("c", 4)))
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 7}, "expected 'largescale corpus' version 2, found 'largescale corpus' version 7"),
        ({"format": "other"}, "found 'other' version 2"),
        ({"shards": []}, "counts 0 images but images.arrow has 24 rows"),
    ],
)
def test_another_build(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    folder = make_corpus(tmp_path / "c")
    change_manifest(folder, **values)
    with pytest.raises(UserError, match=message):
        open_at(folder)


def test_damaged_files(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "c")
    (folder / "images.arrow").write_bytes((folder / "images.arrow").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"images\.arrow: expected [\d,]+ bytes, found"):
        open_at(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged, or no manifest"):
        open_at(folder)


@pytest.mark.slow
def test_pairs_beyond_the_images(tmp_path: Path) -> None:
    large, small = make_corpus(tmp_path / "large", labels=9, pairs=True), make_corpus(tmp_path / "small", labels=3, pairs=True)
    (small / "pairs.arrow").write_bytes((large / "pairs.arrow").read_bytes())
    files = {name: json.loads((folder / "manifest.json").read_text())["files"] for name, folder in (("l", large), ("s", small))}
    change_manifest(small, files=files["s"] | {"pairs.arrow": files["l"]["pairs.arrow"]})
    with pytest.raises(UserError, match=r"names image 35 but images.arrow has 12 rows: these files are from different builds"):
        _ = open_at(small).pairs


@pytest.mark.slow
def test_a_million_rows_are_mapped_and_travel_as_a_path(tmp_path: Path) -> None:
    write_large_manifest(tmp_path)
    manifest = open_at(tmp_path)
    assert len(pickle.dumps(manifest)) < 3000
    copy = pickle.loads(pickle.dumps(manifest))
    assert (copy.offset[[0, 5, -1]] == manifest.offset[[0, 5, -1]]).all()
    assert not manifest.offset.flags.owndata
    assert not manifest.offset.flags.writeable


@pytest.mark.slow
@pytest.mark.parametrize("hostile", ["../x.tar", "/etc/passwd", ".hidden", "a/b", ""])
def test_names_and_hashes_of_a_hostile_manifest_lead_nowhere(tmp_path: Path, hostile: str) -> None:
    """Its checksum and its fingerprint are right: whoever wrote it knows how."""
    folder = make_corpus(tmp_path / "c")
    written = json.loads((folder / "manifest.json").read_text())
    first, *rest = written["shards"]
    facts = written["files"]["images.arrow"]
    for change in (
        {"shards": [first | {"name": hostile}, *rest]},
        {"shards": [first | {"sha256": hostile}, *rest]},
        {"shards": [first | {"bytes": -1}, *rest]},
        {"files": written["files"] | {"images.arrow": facts | {"sha256": hostile}}},
        {"files": written["files"] | {hostile: facts}},
        {"name": hostile},
    ):
        (folder / "manifest.json").write_text(json.dumps(written))
        change_manifest(folder, **change)
        with pytest.raises(UserError, match="this is no manifest that make shards wrote"):
            open_at(folder)
