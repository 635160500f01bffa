import pickle
from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.manifest import Manifest
from largescale.settings import UserError
from shards.layouts import choose
from shards.sources.files import MissingImagesError
from shards.sources.layout import Request
from shards.sources.reconstructions.sfm import RetrievalSfm, StructureFromMotion, find_pickle, place_of
from shards.verify import Unchecked
from shards.writer import build
from tests.shards.photographs import write_photographs

CIDS = [f"{number:032x}" for number in (0xABCDEF, 0x123456, 0x777777, 0x0F0F0F, 0x222222, 0xABCD00)]
SPLIT = {"cids": CIDS, "cluster": [10, 9, 10, 2, 9, 10], "qidxs": [0, 1, 5], "pidxs": [2, 4, 0]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "ims", [place_of(cid) for cid in CIDS])
    values = {
        "train": SPLIT,
        "val": {**SPLIT, "cids": CIDS[:2], "cluster": np.array([1, 1]), "qidxs": np.array([0]), "pidxs": np.array([1])},
    }
    (tmp_path / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(values, 2))
    return tmp_path


def source(folder: Path, split: str = "train") -> StructureFromMotion:
    return StructureFromMotion(find_pickle(folder), folder / "ims", split)


def test_image_tree_is_that_of_cirtorch() -> None:
    assert place_of("0123456789abcdef") == "ef/cd/ab/0123456789abcdef"


@pytest.mark.slow
def test_clusters_are_labels_and_pairs_name_the_same_images(folder: Path, tmp_path: Path) -> None:
    build(source(folder), tmp_path / "out", workers=1)
    manifest = Manifest.open(Unchecked(tmp_path / "out"))
    assert manifest.label_names.to_pylist() == ["2", "9", "10"]
    keys = manifest.keys.to_pylist()
    assert keys == [CIDS[i] for i in (3, 1, 4, 0, 2, 5)]
    assert manifest.pairs is not None
    pairs = [(keys[q], keys[p]) for q, p in zip(manifest.pairs["query"], manifest.pairs["positive"], strict=True)]
    assert pairs == [(CIDS[0], CIDS[2]), (CIDS[1], CIDS[4]), (CIDS[5], CIDS[0])]
    assert list(manifest.pairs) == ["query", "positive"]


def test_split_is_chosen(folder: Path) -> None:
    assert [item.key for item in source(folder, "val").items()] == CIDS[:2]
    with pytest.raises(UserError, match="no split 'test'; it holds: train, val"):
        list(source(folder, "test").items())


def test_missing_images_are_listed(folder: Path) -> None:
    (folder / "ims" / place_of(CIDS[3])).unlink()
    with pytest.raises(MissingImagesError, match=f"1 of the 6 images.*\n.*{CIDS[3]}"):
        list(source(folder).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster": [1]}, "do not fit together"),
        ({"qidxs": [0, 1, 6]}, "do not fit together"),
        ({"pidxs": [0]}, "do not fit together"),
        ({"cids": None}, "lacks cids"),
    ],
)
def test_pickles_that_contradict_themselves(folder: Path, change: dict, message: str) -> None:
    changed = {name: value for name, value in {**SPLIT, **change}.items() if value is not None}
    (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps({"train": changed}))
    with pytest.raises(UserError, match=message):
        list(source(folder).items())


def test_the_pickle_is_found_or_asked_for(folder: Path, tmp_path: Path) -> None:
    assert find_pickle(folder / "retrieval-SfM-120k.pkl") == find_pickle(folder)
    (folder / "another.pkl").touch()
    with pytest.raises(UserError, match=r"expected one \.pkl .* found 2"):
        find_pickle(folder)


def test_types_as_people_make_them(folder: Path) -> None:
    forms = {
        "clusters by name, and none": ({"cluster": ["church", None, "church", "7", np.int64(9), 10.0]}, SPLIT["qidxs"]),
        "numbers of numpy and floats": ({"qidxs": np.array([0.0, 1.0, 5.0]), "pidxs": [np.int64(2), 4, 0]}, SPLIT["qidxs"]),
        "lists of positives": ({"pidxs": [[2, 3], [4], []]}, [0, 0, 1]),
    }
    for change, queries in forms.values():
        (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps({"train": {**SPLIT, **change}}, 2))
        assert source(folder).pairs()["query"].tolist() == queries
    (folder / "retrieval-SfM-120k.pkl").write_bytes(
        pickle.dumps({"train": {**SPLIT, "cluster": forms["clusters by name, and none"][0]["cluster"]}}, 2)
    )
    assert [item.label for item in source(folder).items()] == ["church", None, "church", "7", "9", "10"]
    for wrong in ({"cids": 7}, {"qidxs": [0.5, 1, 5]}, {"pidxs": [2, 4, -1]}, {"cluster": "churches"}):
        (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps({"train": {**SPLIT, **wrong}}, 2))
        with pytest.raises(UserError, match="do not fit together"):
            list(source(folder).items())


def test_a_pair_of_an_image_and_itself_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = {"qidxs": [0, 1, 5], "pidxs": [0, 4, 3]}
    (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps({"train": {**SPLIT, **pairs}}, 2))
    assert {name: column.tolist() for name, column in source(folder).pairs().items()} == {"query": [1, 5], "positive": [4, 3]}
    assert "1 of 3 pairs are an image and itself" in caplog.text


def test_the_folder_as_published_has_the_whitening_pickle_beside_the_other(folder: Path) -> None:
    whitening = {name: SPLIT[name] for name in ("cids", "qidxs", "pidxs")}
    (folder / "retrieval-SfM-120k-whiten.pkl").write_bytes(pickle.dumps(whitening, 2))
    assert choose(folder).layout.name == "sfm"
    sources = RetrievalSfm().read(Request(folder))
    assert list(sources) == ["train", "val", "whiten"]
    assert [item.label for item in sources["whiten"].items()] == [None] * 6  # type: ignore[union-attr]
    pairs = sources["whiten"].pairs()
    assert pairs is not None
    assert pairs["positive"].tolist() == SPLIT["pidxs"]
    assert list(RetrievalSfm().read(Request(folder / "retrieval-SfM-120k-whiten.pkl"))) == ["whiten"]
