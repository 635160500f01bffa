from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from largescale.settings import UserError
from shards.images import Encoding
from shards.plan import CorpusPlan, Sharding, check_keys, collect, settle
from shards.sources import Item, Source
from tests.corpora import encode, photograph


@dataclass(frozen=True)
class Painted(Source):
    """Images from nowhere; what is fixed is their order."""

    labels: tuple[str | None, ...]
    layout: str = "painted"

    def items(self) -> Iterator[Item]:
        return (Item(f"image{number}", label, str(number)) for number, label in enumerate(self.labels))

    def read(self, place: str) -> bytes:
        return encode(photograph(int(place), 0, 40, 30))


def settled(source: Source, out: Path, **sharding: int) -> CorpusPlan:
    plan = settle(source, out, Encoding(), Sharding(**sharding))
    assert plan is not None
    return plan


def test_rows_are_sorted_by_label_and_stay_in_order_within_one() -> None:
    rows, names = collect(Painted(("oak", None, "ash", "oak", None, "ash")).items())
    assert names == ["ash", "oak"]
    assert rows["label"].to_pylist() == [-1, -1, 0, 0, 1, 1]
    assert rows["item"].to_pylist() == [1, 4, 2, 5, 0, 3]
    assert rows["key"].to_pylist() == [f"image{item}" for item in (1, 4, 2, 5, 0, 3)]


def test_labels_that_are_numbers_are_sorted_as_numbers() -> None:
    assert collect(Painted(("10", "9", "100")).items())[1] == ["9", "10", "100"]
    assert collect(Painted(("10", "9", "b")).items())[1] == ["10", "9", "b"]


@pytest.mark.parametrize(
    ("images", "options", "shards"),
    [(63, {}, 1), (64, {}, 8), (8001, {}, 9), (64, {"shard_images": 4}, 16), (10, {"shard_bytes": 5000}, 5)],
)
def test_number_of_shards(images: int, options: dict[str, int], shards: int) -> None:
    assert Sharding(**options).count(images, image_bytes=2500) == shards


@pytest.mark.slow
def test_shards_differ_by_one_image_at_most(tmp_path: Path) -> None:
    plan = settled(Painted((None,) * 67), tmp_path)
    sizes = np.diff(plan.bounds)
    assert (sizes.min(), sizes.max(), sizes.sum(), plan.shards) == (8, 9, 67, 8)


@pytest.mark.slow
def test_the_first_plan_counts_and_the_same_options_find_it_again(tmp_path: Path) -> None:
    source = Painted(("b", "a"))
    first = settled(source, tmp_path)
    written = (tmp_path / ".build" / "build.json").stat().st_mtime_ns
    first.commit(tmp_path / ".build")
    second = settled(source, tmp_path)
    assert (tmp_path / ".build" / "build.json").stat().st_mtime_ns == written
    assert (second.identity, second.shards, list(second.label_names)) == (first.identity, first.shards, ["a", "b"])
    assert [path.name for path in tmp_path.iterdir()] == [".build"]


@pytest.mark.slow
def test_a_changed_source_and_changed_options_are_named(tmp_path: Path) -> None:
    settled(Painted(("b", "a")), tmp_path)
    with pytest.raises(UserError, match=r"source_images was 2, is 3; source_sha256 was .* choose another OUT"):
        settled(Painted(("b", "a", "a")), tmp_path)
    with pytest.raises(UserError, match="shard_images was 1000, is 7"):
        settled(Painted(("b", "a")), tmp_path, shard_images=7)
    with pytest.raises(UserError, match=r"max_side was 512, is 64; quality was 90, is 80"):
        settle(Painted(("b", "a")), tmp_path, Encoding(max_side=64, quality=80), Sharding())


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image that layout 'painted' can find"):
        settled(Painted(()), tmp_path)


@pytest.mark.parametrize("key", ["a.b", "x/a.b", "", "x/", "/x", "__x__/a"])
def test_keys_that_webdataset_misreads_are_errors(key: str) -> None:
    rows, _ = collect([Item("fine/a", None, "fine.jpg"), Item(key, None, "there.jpg")])
    with pytest.raises(UserError, match=r"there\.jpg would get the key"):
        check_keys(rows)


def test_dots_and_underscores_that_are_legal(tmp_path: Path) -> None:
    check_keys(collect([Item(key, None, "p") for key in ("v1.0/a", "__a", "x/__y__/b", "ü ñ/漢")])[0])


def test_colliding_keys_name_both_files() -> None:
    items = [Item("x/a", None, "x/a.jpg"), Item("x/b", None, "x/b.jpg"), Item("x/a", "k", "x/a.png")]
    with pytest.raises(UserError, match=r"x/a\.jpg and x/a\.png would both be stored as 'x/a'"):
        check_keys(collect(items)[0])


def test_a_name_that_is_no_text_is_named() -> None:
    with pytest.raises(UserError, match="not valid UTF-8"):
        collect([Item("a\udcff", None, "a\udcff.jpg")])


def test_a_source_of_which_nothing_can_be_decoded_is_an_error_at_once(tmp_path: Path) -> None:
    class Broken(Painted):
        def read(self, place: str) -> bytes:
            return b"<html>"

    with pytest.raises(UserError, match="none of 2 sampled images can be decoded, the first being 0 "):
        settled(Broken((None, None)), tmp_path)
