import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from largescale.settings import UserError
from shards.sources import Item, Skipped
from shards.sources.files import MissingImagesError
from shards.sources.layout import Request
from shards.sources.split import ClassSplit
from shards.sources.tables.table import Lists, Table, TableSource, corpora_of
from tests.shards.photographs import write_photographs

NAMES = ["images/a 1.jpg", "images/b.jpg", "images/c.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_photographs(tmp_path, NAMES)


def rows(path: Path, root: Path, corpus: str = "", **fields: str) -> list[Item | Skipped]:
    return list(TableSource(Table.open(path, root, **fields), root, corpus).items())


def listed(root: Path, text: str, name: str = "list.csv") -> list[tuple[str, str | None, str]]:
    (root / name).write_text(text, encoding="utf-8")
    return [tuple(item)[:3] for item in rows(root / name, root) if isinstance(item, Item)]  # type: ignore[misc]


EXPECTED = [("images/a 1", "oak", "images/a 1.jpg"), ("images/b", "ash tree", "images/b.jpg"), ("images/c", None, "images/c.png")]


@pytest.mark.parametrize(
    "text",
    [
        "images/a 1.jpg,oak\nimages/b.jpg,ash tree\nimages/c.png,\n",
        "path,label\nimages/a 1.jpg,oak\nimages/b.jpg,ash tree\nimages/c.png,\n",
        "images/a 1.jpg, oak, 7\nimages/b.jpg, ash tree, 8\n\nimages/c.png\n",
        '"images/a 1.jpg","oak"\n"images/b.jpg","ash tree"\nimages/c.png\n',
        "\ufefffile\tclass\nimages/a 1.jpg\toak\nimages/b.jpg\tash tree\r\nimages/c.png\n",
        "path|label\nimages/a 1.jpg|oak\nimages/b.jpg|ash tree\nimages/c.png|\n",
        '"images/a 1.jpg" oak\n./images/b.jpg   "ash tree"  3\nimages/c.png\n',
    ],
)
def test_commas_tabs_blanks_with_and_without_header(root: Path, text: str) -> None:
    assert listed(root, text) == [(key, label, place) for key, label, place in EXPECTED]


def test_a_list_of_paths_alone_has_no_labels(root: Path) -> None:
    assert [label for _, label, _ in listed(root, "images/b.jpg\nimages/c.png\n", "list.txt")] == [None, None]


def test_absolute_paths_below_the_root(root: Path) -> None:
    assert listed(root, f"{root}/images/b.jpg,x\n") == [("images/b", "x", "images/b.jpg")]


def test_paths_outside_of_the_root_are_errors(root: Path) -> None:
    with pytest.raises(UserError, match=r"names \.\./x\.jpg, which is not below"):
        listed(root, "../x.jpg,1\n")


def test_all_missing_images_are_known_and_ten_are_shown(root: Path) -> None:
    names = [f"images/{number}.jpg" for number in range(12)]
    with pytest.raises(MissingImagesError) as caught:
        listed(root, "".join(f"{name},1\n" for name in ["images/b.jpg", *names, "nowhere/1.jpg"]))
    assert caught.value.paths == [*names, "nowhere/1.jpg"]
    assert "13 of the 14 images" in str(caught.value)
    assert "images/9.jpg" in str(caught.value)
    assert "images/10.jpg" not in str(caught.value)


def test_a_missing_list_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="there is no list"):
        rows(root / "no.csv", root)


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("filename,width,height,class", "{path},96,72,{label}"),
        ("path,split,label", "{path},train,{label}"),
        ("label,path", "{label},{path}"),
        (",Image Path,Label", "7,{path},{label}"),
        ("image;landmark_id", "{path};{label}"),
    ],
)
def test_a_header_decides_the_columns(root: Path, header: str, line: str) -> None:
    lines = [line.format(path=path, label=label) for path, label in ((NAMES[1], "oak"), (NAMES[2], "ash tree"))]
    (root / "list.csv").write_text("\n".join(["", header, *lines]))
    table = Table.open(root / "list.csv", root)
    items = [item for item in TableSource(table, root, corpora_of(table)[0]).items() if isinstance(item, Item)]
    assert [(item.place, item.label) for item in items] == [(NAMES[1], "oak"), (NAMES[2], "ash tree")]


def test_columns_that_nobody_knows_are_asked_for(root: Path) -> None:
    (root / "list.csv").write_text(f"photo,tree\n{NAMES[1]},oak\n")
    with pytest.raises(UserError, match="no column of a header that is known"):
        Table.open(root / "list.csv", root)
    with pytest.raises(UserError, match=r"known to hold labels; it has: photo, tree; give --label-field"):
        Table.open(root / "list.csv", root, "photo")
    assert [
        item.label for item in rows(root / "list.csv", root, path_field="Photo", label_field="tree") if isinstance(item, Item)
    ] == ["oak"]
    (root / "list.csv").write_text(f"oak,{NAMES[1]}\n")
    with pytest.raises(UserError, match=r"the first column .* holds no paths"):
        Table.open(root / "list.csv", root)


@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_a_quotation_mark_that_is_none_swallows_nothing(root: Path, separator: str) -> None:
    lines = [f"{NAMES[1]}{separator}oak", f'{NAMES[0]}{separator}"5-inch screw', f"{NAMES[2]}{separator}ash"]
    assert [label for _, label, _ in listed(root, "\n".join(lines))] == ["oak", '"5-inch screw', "ash"]


def test_blanks_belong_to_a_label(root: Path) -> None:
    assert [label for _, label, _ in listed(root, f"{NAMES[1]} red oak\n{NAMES[2]} red maple\n")] == ["red oak", "red maple"]


def test_a_comma_that_is_not_quoted_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"list\.csv:2: 3 fields where the first line has 2"):
        listed(root, f"{NAMES[1]},oak\n{NAMES[2]},ash, tall\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(root: Path, encoding: str) -> None:
    (root / "list.csv").write_bytes(f"path,label\r\n{NAMES[1]},café\r\n".encode(encoding))
    assert [item.label for item in rows(root / "list.csv", root) if isinstance(item, Item)] == ["café"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_json_lines_in_other_encodings_and_with_other_names(root: Path, encoding: str) -> None:
    lines = [f'{{"path": "{NAMES[0]}"}}', f'{{"path": "{NAMES[1]}", "label": "café"}}']
    (root / "list.jsonl").write_bytes("\n".join(lines).encode(encoding))
    assert [item.label for item in rows(root / "list.jsonl", root) if isinstance(item, Item)] == [None, "café"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"path,label\nhttps://x/1.jpg,oak\n", r"names https://x/1\.jpg: .* not by URL; download them"),
        ("list.txt", b"s3://bucket/1.jpg oak\n", "not by URL"),
        ("list.jsonl", b'{"path": "hf://datasets/x/1.jpg", "label": "oak"}\n', "not by URL"),
        ("list.jsonl", b'{"path": "images/b.jpg", "label": ["oak", "red"]}\n', "an image has one label"),
        ("list.jsonl", b"", "is empty"),
        ("list.csv", b"path,label\nimages/b.jpg,o\0k\n", "is no text: it has zero bytes"),
    ],
)
def test_lists_that_cannot_be_read_say_why(root: Path, name: str, content: bytes, message: str) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        rows(root / name, root)


def test_missing_labels_are_none(root: Path) -> None:
    for word in ("", "NaN", "N/A", "<NA>", "null", "None", "-1", " "):
        assert [label for _, label, _ in listed(root, f"path,label\n{NAMES[1]},{word}\n{NAMES[2]},oak\n")] == [None, "oak"]


def test_an_image_that_is_listed_twice(root: Path) -> None:
    (root / "list.csv").write_text(f"path,label\n{NAMES[1]},oak\n./{NAMES[1]},oak\n")
    assert rows(root / "list.csv", root)[1:] == [Skipped(NAMES[1], "listed again")]
    with pytest.raises(UserError, match=r"lists the image images/b\.jpg twice, with the labels 'oak' and 'ash'"):
        listed(root, f"path,label\n{NAMES[1]},oak\n{NAMES[1]},ash\n")


FIELDS = ("path", "label", "split", "is_query", "is_gallery", "category", "x_1", "y_1", "x_2", "y_2")
OWN = [
    (NAMES[0], 7, "train", None, None, "tree", None, None, None, None),
    (NAMES[1], 8, "validation", True, False, "tree", 1, 2, 11, 12),
    (NAMES[2], 8, "validation", False, True, "tree", 3.5, 2, 11, 12),
]


def own_table(root: Path, suffix: str, content: list[tuple]) -> Path:
    path, objects = root / f"df{suffix}", [dict(zip(FIELDS, row, strict=True)) for row in content]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(objects), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(values) + "\n" for values in objects))
    else:
        cells = [["" if cell is None else str(cell) for cell in row] for row in content]
        path.write_text("\n".join(",".join(row) for row in (FIELDS, *cells)))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_training_query_and_gallery_of_one_table(root: Path, suffix: str) -> None:
    path = own_table(root, suffix, OWN)
    sources = Lists().read(Request(path))
    found = {name: [item for item in source.items() if isinstance(item, Item)] for name, source in sources.items()}
    assert {name: [(item.place, item.label, item.box) for item in items] for name, items in found.items()} == {
        "train": [(NAMES[0], "tree/7", None)],
        "query": [(NAMES[1], "tree/8", (1.0, 2.0, 11.0, 12.0))],
        "gallery": [(NAMES[2], "tree/8", (3.5, 2.0, 11.0, 12.0))],
    }


def test_images_that_are_all_asked_and_searched_are_one_corpus(root: Path) -> None:
    path = own_table(root, ".csv", [row if row[2] == "train" else (*row[:3], True, True, *row[5:]) for row in OWN])
    assert list(Lists().read(Request(path))) == ["train", "validation"]


def test_classes_of_a_list_are_divided_with_their_groups(root: Path) -> None:
    (root / "list.csv").write_text("path,label,group\n" + "".join(f"{name},{n},{n // 2}\n" for n, name in enumerate(NAMES)))
    whole = Lists().read(Request(root / "list.csv"))[""]
    sides = [
        {item.label for item in ClassSplit(whole, 0.5, side).items() if isinstance(item, Item)} for side in ("train", "test")
    ]
    assert sorted(sides, key=len) == [{"2"}, {"0", "1"}]
