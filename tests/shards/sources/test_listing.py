from pathlib import Path

import pytest

from largescale.settings import UserError
from shards.sources.files import MissingImagesError
from shards.sources.listing import Listing
from tests.shards.photographs import write_photographs

NAMES = ["images/a 1.jpg", "images/b.jpg", "images/c.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_photographs(tmp_path, NAMES)


def listed(root: Path, text: str, name: str = "list.csv") -> list[tuple[str, str | None, str]]:
    (root / name).write_text(text, encoding="utf-8")
    return [tuple(item) for item in Listing(root / name, root).items()]  # type: ignore[misc]


EXPECTED = [("images/a 1", "oak", "images/a 1.jpg"), ("images/b", "ash tree", "images/b.jpg"), ("images/c", None, "images/c.png")]


@pytest.mark.parametrize(
    "text",
    [
        "images/a 1.jpg,oak\nimages/b.jpg,ash tree\nimages/c.png,\n",
        "path,label\nimages/a 1.jpg,oak\nimages/b.jpg,ash tree\nimages/c.png,\n",
        "images/a 1.jpg, oak, 7\nimages/b.jpg, ash tree, 8\n\nimages/c.png\n",
        '"images/a 1.jpg","oak"\n"images/b.jpg","ash tree"\nimages/c.png\n',
        "\ufefffile\tclass\nimages/a 1.jpg\toak\nimages/b.jpg\tash tree\r\nimages/c.png\n",
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
        list(Listing(root / "no.csv", root).items())
