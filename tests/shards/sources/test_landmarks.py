import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.manifest import Manifest
from largescale.settings import UserError
from shards.images import Encoding
from shards.sources.files import MissingImagesError
from shards.sources.landmarks import Landmarks, find_ground_truth, read_test_set
from shards.verify import Unchecked
from shards.writer import build
from tests.shards.photographs import write_photographs

GALLERY = ["hall_3", "hall_1", "gate_2", "gate_1"]
CLASSIC = {
    "imlist": GALLERY,
    "qimlist": ["hall_1", "gate_2"],
    "gnd": [{"bbx": [4, 6, 20, 30.0], "ok": [0, 1], "junk": [3]}, {"bbx": [0, 0, 40, 30], "ok": [2, 3], "junk": []}],
}
REVISITED = {
    "imlist": GALLERY,
    "qimlist": ["query_1", "query_2"],
    "gnd": [
        {"bbx": [4, 6, 20, 30], "easy": [0], "hard": [1], "junk": [3]},
        {"bbx": [0, 0, 40, 30], "easy": [], "hard": [2, 3], "junk": [0]},
    ],
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    names = [*GALLERY, "query_1", "query_2", "unnamed"]
    return write_photographs(tmp_path / "images", [f"{name.partition('_')[0]}/{name}.jpg" for name in names])


def write_json(path: Path, truth: dict) -> Path:
    path.write_text(json.dumps(truth))
    return path


def built(images: Path, truth: Path, out: Path) -> Manifest:
    build(Landmarks(images, truth), out, Encoding(max_side=20), workers=1)
    return Manifest.open(Unchecked(out))


@pytest.mark.slow
def test_classic_queries_are_in_the_gallery(images: Path, tmp_path: Path) -> None:
    manifest = built(images, write_json(tmp_path / "gnd_oxford5k.json", CLASSIC), tmp_path / "out")
    assert manifest.keys.to_pylist() == GALLERY
    assert set(manifest.label) == {-1}
    assert manifest.ground_truth == {
        "protocol": "oxford5k",
        "queries": [
            {"key": "hall_1", "box": [2.0, 3.0, 10.0, 15.0], "ok": ["hall_3", "hall_1"], "junk": ["gate_1"]},
            {"key": "gate_2", "box": [0.0, 0.0, 20.0, 15.0], "ok": ["gate_2", "gate_1"], "junk": []},
        ],
        "gallery": None,
    }


@pytest.mark.slow
def test_revisited_queries_are_stored_but_not_in_the_gallery(images: Path, tmp_path: Path) -> None:
    manifest = built(images, write_json(tmp_path / "gnd_rparis6k.json", REVISITED), tmp_path / "out")
    assert manifest.keys.to_pylist() == [*GALLERY, "query_1", "query_2"]
    truth = manifest.ground_truth
    assert truth is not None
    assert (truth["protocol"], truth["gallery"]) == ("rparis6k", GALLERY)
    first = {"key": "query_1", "box": [2.0, 3.0, 10.0, 15.0], "easy": ["hall_3"], "hard": ["hall_1"], "junk": ["gate_1"]}
    assert truth["queries"][0] == first


def test_pickles_and_json_say_the_same(tmp_path: Path) -> None:
    arrays = [{mark: np.asarray(values) for mark, values in query.items()} for query in REVISITED["gnd"]]
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({**REVISITED, "gnd": arrays}, 2))
    write_json(tmp_path / "gnd_roxford5k.json", REVISITED)
    assert read_test_set(tmp_path / "gnd_roxford5k.pkl") == read_test_set(tmp_path / "gnd_roxford5k.json")


def test_the_boxes_of_a_resized_copy_are_refused(images: Path, tmp_path: Path) -> None:
    write_photographs(images, ["gate/gate_2.jpg"], 20, 15)
    with pytest.raises(UserError, match=r"box of query gate_2 is .* but gate/gate_2\.jpg has 20 x 15 pixels: a resized copy"):
        list(Landmarks(images, write_json(tmp_path / "gnd_oxford5k.json", CLASSIC)).items())


def test_names_and_numbers_as_people_have_them(tmp_path: Path) -> None:
    names = ["jpg/st.paul_3.jpg", "st.paul_1.JPG", "gate.2.png", "gate_1"]
    queries = [
        {"bbx": np.array([4, 6, 20, 30.0]), "ok": np.array([0, 1]), "junk": np.int64(3)},
        {"bbx": None, "ok": ["gate.2.jpg", 3.0], "junk": None},
    ]
    truth = {"imlist": names, "qimlist": ["st.paul_1", "gate.2"], "gnd": queries}
    (tmp_path / "gnd_oxford5k.pkl").write_bytes(pickle.dumps(truth, 2))
    found = read_test_set(tmp_path / "gnd_oxford5k.pkl")
    assert found.images == ["st_paul_3", "st_paul_1", "gate_2", "gate_1"]
    assert found.queries == [
        {"key": "st_paul_1", "box": [4, 6, 20, 30], "ok": ["st_paul_3", "st_paul_1"], "junk": ["gate_1"]},
        {"key": "gate_2", "box": None, "ok": ["gate_2", "gate_1"], "junk": []},
    ]


@pytest.mark.parametrize("content", ["", "hall_1", "hall_1 4 6 20", "hall_1 4 6 a b", "hall_1 4 6 nan 30", None])
def test_texts_that_are_not_whole_are_named(tmp_path: Path, content: str | None) -> None:
    for mark in ("good", "ok", "junk"):
        (tmp_path / f"hall_1_{mark}.txt").write_text("hall_3\n")
    (tmp_path / "hall_1_query.txt").write_text("hall_1 4 6 20 30" if content is None else content)
    if content is None:
        (tmp_path / "hall_1_junk.txt").unlink()
    with pytest.raises(
        UserError, match="hall_1_junk.txt cannot be read" if content is None else "hall_1_query.txt does not hold"
    ):
        read_test_set(tmp_path)


@pytest.mark.slow
def test_original_text_files(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gt"
    folder.mkdir()
    texts = {
        "hall_1_query": "oxc1_hall_1 4.0 6.0 20.0 30.0\n",
        "hall_1_good": "hall_1\nhall_1\n",
        "hall_1_ok": "hall_3\n",
        "hall_1_junk": "",
    }
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    manifest = built(images, folder, tmp_path / "out")
    assert manifest.keys.to_pylist() == sorted([*GALLERY, "query_1", "query_2", "unnamed"])
    query = {"key": "hall_1", "box": [2.0, 3.0, 10.0, 15.0], "good": ["hall_1"], "ok": ["hall_3"], "junk": []}
    assert manifest.ground_truth == {"protocol": "oxford5k", "queries": [query], "gallery": None}
    (folder / "hall_1_query.txt").write_text("hall_1 4.0 6.0 20.0 30.0\n")
    assert read_test_set(folder).protocol == "paris6k"


def test_missing_and_doubtful_images_are_named(images: Path, tmp_path: Path) -> None:
    truth = write_json(tmp_path / "gnd_oxford5k.json", CLASSIC)
    (images / "hall" / "hall_3.jpg").unlink()
    with pytest.raises(MissingImagesError, match=r"1 of the 4 images.*\n  hall_3"):
        list(Landmarks(images, truth).items())
    write_photographs(images, ["a/hall_3.jpg", "b/hall_3.jpg"])
    with pytest.raises(UserError, match=r"a/hall_3\.jpg and b/hall_3\.jpg below .* are both called hall_3"):
        list(Landmarks(images, truth).items())


@pytest.mark.slow
def test_a_query_that_cannot_be_decoded_is_an_error(images: Path, tmp_path: Path) -> None:
    (images / "hall" / "hall_1.jpg").write_bytes(b"broken")
    source = Landmarks(images, write_json(tmp_path / "gnd_oxford5k.json", CLASSIC))
    with pytest.raises(UserError, match="query images cannot be decoded: hall_1"):
        build(source, tmp_path / "out", workers=1, bad_budget=1)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_an_undecodable_image_leaves_the_lists(images: Path, tmp_path: Path) -> None:
    (images / "hall" / "hall_3.jpg").write_bytes(b"broken")
    build(Landmarks(images, write_json(tmp_path / "gnd_roxford5k.json", REVISITED)), tmp_path / "out", workers=1, bad_budget=1)
    truth = Manifest.open(Unchecked(tmp_path / "out")).ground_truth
    assert truth is not None
    assert truth["gallery"] == GALLERY[1:]
    assert [query["easy"] + query["junk"] for query in truth["queries"]] == [["gate_1"], []]


def first_query(**values: object) -> dict:
    return {"gnd": [CLASSIC["gnd"][0] | values, *CLASSIC["gnd"][1:]]}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "change",
    [
        {"gnd": CLASSIC["gnd"][:1]},
        {"gnd": [{"ok": [9]}] * 2},
        {"gnd": [{"bbx": None}] * 2},
        {"imlist": None},
        {"imlist": ["hall_1", "hall_1.jpg", "gate_2", "gate_1"]},
        {"qimlist": 3},
        first_query(ok=[-1]),
        first_query(ok=[0.5]),
        first_query(junk=["no_such"]),
        first_query(bbx=[4, 6, float("nan"), 30]),
        first_query(bbx=[20, 6, 4, 30]),
        first_query(bbx=[4, 6, 20]),
    ],
)
def test_ground_truths_that_contradict_themselves(tmp_path: Path, change: dict) -> None:
    with pytest.raises(UserError, match="no ground truth with imlist, qimlist and gnd"):
        read_test_set(write_json(tmp_path / "gnd_oxford5k.json", CLASSIC | change))


def test_the_ground_truth_is_found_or_asked_for(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found none; give --ground-truth"):
        find_ground_truth(images)
    truth = write_json(images / "gnd_oxford5k.json", CLASSIC)
    assert find_ground_truth(images) == truth
    write_json(images / "gnd_roxford5k.json", REVISITED)
    with pytest.raises(UserError, match=r"found gnd_oxford5k\.json, gnd_roxford5k\.json"):
        find_ground_truth(images)
    with pytest.raises(UserError, match="name it gnd_PROTOCOL"):
        read_test_set(write_json(images / "gnd_other.json", CLASSIC))


def test_text_files_and_json_of_the_real_oxford5k_agree(shared_data: Path) -> None:
    texts, lists = (read_test_set(shared_data / "oxford5k" / name) for name in ("oxford_gt_txt", "gnd_oxford5k.json"))
    assert texts.protocol == lists.protocol == "oxford5k"
    assert len(texts.queries) == 55
    by_box = {(query["key"], tuple(query["box"])): query for query in texts.queries}
    for query in lists.queries:
        original = by_box[query["key"], tuple(query["box"])]
        assert sorted(query["ok"]) == sorted(original["good"] + original["ok"])
        assert sorted(query["junk"]) == sorted(original["junk"])


@pytest.mark.parametrize(("protocol", "stored"), [("oxford5k", 5063), ("rparis6k", 6322 + 70)])
def test_all_names_of_the_real_ground_truths(shared_data: Path, tmp_path: Path, protocol: str, stored: int) -> None:
    truth = shared_data / "oxford5k" / f"gnd_{protocol}.json"
    test_set = read_test_set(truth)
    for name in {*(test_set.images or ()), *(query["key"] for query in test_set.queries)}:
        (tmp_path / f"{name}.jpg").touch()
    source = Landmarks(tmp_path, truth)
    assert len({item.key for item in source.items()}) == stored
    assert source.ground_truth()["protocol"] == protocol
    assert (source.ground_truth()["gallery"] is None) == (not protocol.startswith("r"))
