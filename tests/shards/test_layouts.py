from collections.abc import Mapping
from pathlib import Path

import pytest

from largescale.settings import UserError
from shards.layouts import LAYOUTS, choose, corpora, counted, find_layout, others, recognize, table
from shards.plan import collect, items_of
from shards.sources import Item, Skipped, Source
from shards.sources.folder import Folder
from shards.sources.layout import Layout, Request
from shards.sources.split import split_classes
from tests.conftest import ROOT
from tests.shards.photographs import write_photographs
from tests.shards.trees import TREES, cub, gldv2, ilias, inat, inat_retrieval, inshop, sop, svhn, tiny_imagenet, ukbench

CASES = [(name, write) for name, writers in TREES.items() for write in writers]


def items(source: Source) -> list[Item]:
    return [item for item in source.items() if isinstance(item, Item)]


def counts(sources: Mapping[str, Source]) -> dict[str, tuple[int, int]]:
    found = {name: items(source) for name, source in sources.items()}
    return {name: (len(some), len({item.label for item in some} - {None})) for name, some in found.items()}


def read(layout: str, source: Path) -> Mapping[str, Source]:
    return corpora(Request(source), LAYOUTS[layout])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write"), CASES)
def test_published_trees_are_recognized_and_read(tmp_path: Path, name: str, write) -> None:
    expected = write(tmp_path)
    assert choose(tmp_path).layout.name == name
    sources = read(name, tmp_path)
    assert counts(sources) == expected
    for corpus, source in sources.items():
        some = items(source)
        assert source.labeled == (expected[corpus][1] > 0)
        assert len({item.key for item in some}) == len(some)
        assert all(source.read(item.place)[:2] in (b"\xff\xd8", b"\x89P") for item in some)


def test_birds_are_split_by_classes_and_keep_their_boxes(tmp_path: Path) -> None:
    cub(tmp_path)
    train, test = (items(source) for source in read("cub", tmp_path).values())
    assert {item.label for item in train} == {"001.Black_footed_Albatross", "100.Brown_Pelican"}
    assert {item.label for item in test} == {"101.White_Pelican", "200.Common_Yellowthroat"}
    assert {item.box for item in (*train, *test)} == {(10.0, 5.0, 30.0, 20.0)}


def test_products_belong_to_categories(tmp_path: Path) -> None:
    sop(tmp_path)
    assert [item.label for item in items(read("sop", tmp_path)["test"])] == ["bicycle/11319", "toaster/11320"]


def test_species_belong_to_their_kingdom(tmp_path: Path) -> None:
    inat_retrieval(tmp_path)
    sources = read("inat2018", tmp_path)
    assert {item.label for item in items(sources["train"])} == {"Plantae/7477"}
    assert {item.label for item in items(sources["test"])} == {"Aves/2761"}


def test_ten_is_the_digit_zero(tmp_path: Path) -> None:
    svhn(tmp_path)
    assert [item.label for item in items(read("svhn", tmp_path)["train"])] == ["1", "9", "0", "0"]


def test_validation_has_the_labels_of_training(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path)
    train, val = ({item.label for item in items(source)} for source in read("tiny-imagenet", tmp_path).values())
    assert train == val == {"n01443537", "n01629819"}


def test_query_and_gallery_share_labels(tmp_path: Path) -> None:
    inshop(tmp_path)
    sources = read("inshop", tmp_path)
    assert {item.label for item in items(sources["query"])} <= {item.label for item in items(sources["gallery"])}


def test_a_group_of_ukbench_that_is_not_complete(tmp_path: Path) -> None:
    ukbench(tmp_path)
    (tmp_path / "full/ukbench00006.jpg").unlink()
    with pytest.raises(UserError, match=r"ukbench00006\.jpg is missing"):
        items(read("ukbench", tmp_path)[""])


def test_landmark_queries_are_public_or_private_and_others_left_out(tmp_path: Path) -> None:
    gldv2(tmp_path)
    test = read("gldv2", tmp_path)["test"]
    assert [item for item in test.items() if isinstance(item, Skipped)] == [Skipped("000088da12d664db", "usage Ignored")]
    truth = test.ground_truth()
    assert truth is not None
    assert truth["queries"] == [
        {"key": "e8e62a3e45c0bfbb", "box": None, "private": ["0000070506ea9a8b", "000026950c2f8c1d"]},
        {"key": "67e40359b5e315cc", "box": None, "public": ["000026950c2f8c1d"]},
    ]


def test_instances_are_found_by_their_positive_images(tmp_path: Path) -> None:
    ilias(tmp_path)
    truth = read("ilias", tmp_path)["query"].ground_truth()
    assert truth is not None
    assert [len(query["good"]) for query in truth["queries"]] == [2, 1, 1]


@pytest.mark.parametrize(
    ("name", "write", "file", "content"),
    [
        ("cub", cub, "CUB_200_2011/classes.txt", b"1 001.Black_footed_Albatross\n"),
        ("cub", cub, "CUB_200_2011/images.txt", b"1 \xff\xfe\n"),
        ("svhn", svhn, "train_32x32.mat", b"not a matrix" * 20),
        ("inat2018", inat, "train2018.json", b'{"images": ['),
        ("inat2018", inat, "train2018.json", b'{"images": [{"id": 1, "file_name": "a/b/1.jpg"}], "annotations": []}'),
        ("inat2018", inat, "val2018.json", None),
        ("gldv2", gldv2, "train_clean.csv", b"landmark,pictures\n1,a b\n"),
    ],
)
def test_a_damaged_annotation_file_is_an_error_of_the_source(
    tmp_path: Path, name: str, write, file: str, content: bytes | None
) -> None:
    write(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    sources = read(name, tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        collect(items_of(next(iter(sources.values()))))
    assert counted(Request(tmp_path), LAYOUTS[name]).startswith("an error")


@pytest.mark.parametrize("split", ["../../elsewhere", "a/b", ".hidden"])
def test_a_split_is_a_plain_name(tmp_path: Path, split: str) -> None:
    write_photographs(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "list.csv").write_text(f"path,label,split\n1.jpg,oak,train\n2.jpg,oak,{split}\n")
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        read("list", tmp_path / "list.csv")


def test_what_a_data_set_would_be_under_a_layout_like_it(tmp_path: Path) -> None:
    sop(tmp_path)
    found = {other.layout.name: counted(Request(tmp_path), other.layout) for other in others(tmp_path, LAYOUTS["sop"])}
    assert found["folder"] == "4 images, 2 labels"


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (["cats/1.jpg", "dogs/2.jpg"], "folder"),
        (["train/cats/1.jpg", "val/cats/2.jpg"], "splits"),
        (["1.jpg", "2.jpg"], "distractors"),
        (["100000.jpg", "100001.jpg"], "holidays"),
    ],
)
def test_own_folders_are_recognized(tmp_path: Path, files: list[str], layout: str) -> None:
    write_photographs(tmp_path, files)
    assert choose(tmp_path).layout.name == layout


def test_folders_of_splits_are_corpora_with_the_same_labels(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["train/cats/1.jpg", "train/dogs/1.jpg", "val/cats/2.jpg"])
    sources = read("splits", tmp_path)
    assert counts(sources) == {"train": (2, 2), "val": (1, 1)}
    assert [item.label for item in items(sources["val"])] == ["cats"]


def test_what_nothing_recognizes_asks_for_a_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recognized none of those that are known; give --layout"):
        choose(tmp_path)
    with pytest.raises(UserError, match="there is no"):
        choose(tmp_path / "nowhere")
    assert recognize(tmp_path) == []


class Backwards(Layout):
    name = "backwards"
    about = "folders whose names are read from right to left"

    def recognize(self, source: Path) -> str | None:
        return None

    def read(self, request: Request) -> Mapping[str, Source]:
        return {"": Folder(request.source, layout=self.name)}


def test_a_layout_of_ones_own_is_named_by_its_import_path() -> None:
    assert isinstance(find_layout("tests.shards.test_layouts:Backwards"), Layout)
    with pytest.raises(UserError, match="expected a class derived from"):
        find_layout("tests.shards.test_layouts:CASES")
    with pytest.raises(UserError, match="must be installed"):
        find_layout("tests.nowhere:Backwards")
    with pytest.raises(UserError, match="there is no layout 'folders'; known are table, list"):
        find_layout("folders")


def test_classes_are_divided_and_groups_stay_together() -> None:
    labels = {f"class {n}" for n in range(20)}
    train, test = split_classes(labels, [], 0.5)
    assert (len(train), len(test), train & test, train | test) == (10, 10, set(), labels)
    assert split_classes(labels, [], 0.5) == (train, test)
    groups = [("class 0", "session"), ("class 7", "session"), ("class 9", "session")]
    train, test = split_classes(labels, groups, 0.5)
    assert {"class 0", "class 7", "class 9"} <= train or {"class 0", "class 7", "class 9"} <= test
    with pytest.raises(UserError, match="give another share"):
        split_classes({"one"}, [], 0.5)


def test_the_documentation_has_the_table_of_the_code() -> None:
    assert table() in (ROOT / "docs/reference/layouts.md").read_text(encoding="utf-8")
