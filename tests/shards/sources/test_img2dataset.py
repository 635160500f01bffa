import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.layouts import choose
from shards.sources import Item, Skipped
from shards.sources.img2dataset import Img2Dataset, padded_or_cut
from shards.sources.layout import Request
from tests.corpora import encode, photograph

IMAGES = [encode(photograph(number, 0, 16, 16)) for number in range(3)]
STATUS = ["success", "failed_to_download", "success", "success"]


def metadata(square: bool = True) -> dict[str, list]:
    size = [None if status != "success" else 16 for status in STATUS]
    original = [None if status != "success" else 600 for status in STATUS]
    return {
        "url": [f"http://x/{n}.jpg" for n in range(4)],
        "place": ["Rome", "Rome", "Paris", None],
        "key": [f"{n:09d}" for n in range(4)],
        "status": STATUS,
        "error_message": [None, "HTTP Error 404: Not Found", None, None],
        "width": size,
        "height": size if square else [side and 12 for side in size],
        "original_width": [side and side + 200 for side in original],
        "original_height": original,
    }


def write_stats(root: Path) -> None:
    stats = {"count": 4, "successes": 3, "failed_to_download": 1, "failed_to_resize": 0, "status_dict": {"success": 3}}
    (root / "00000_stats.json").write_text(json.dumps(stats))


def test_parquet_output_leaves_failed_rows_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = iter(IMAGES)
    columns = {**metadata(), "jpg": [next(images) if status == "success" else None for status in STATUS]}
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    write_stats(tmp_path)
    assert choose(tmp_path).layout.name == "img2dataset"
    source = Img2Dataset().read(Request(tmp_path, label_field="place"))[""]
    said = capsys.readouterr().out
    assert "img2dataset reports 4 rows in 1 shards: 3 successes, 1 failed to download, 0 failed to resize" in said
    assert "white borders" in said
    found = list(source.items())
    items = [item for item in found if isinstance(item, Item)]
    assert [item.label for item in items] == ["Rome", "Paris", None]
    assert [source.read(item.place) for item in items] == IMAGES
    assert [item.reason for item in found if isinstance(item, Skipped)] == ["img2dataset: failed_to_download"]


def test_file_output_is_no_folder_of_classes(tmp_path: Path) -> None:
    for n, data in enumerate(IMAGES):
        (tmp_path / "00000").mkdir(exist_ok=True)
        (tmp_path / f"00000/{n:09d}.jpg").write_bytes(data)
        (tmp_path / f"00000/{n:09d}.json").write_text(json.dumps({"place": "Rome", "status": "success"}))
    pq.write_table(pa.table(metadata()), tmp_path / "00000.parquet")
    write_stats(tmp_path)
    assert choose(tmp_path).layout.name == "img2dataset"
    assert {item.label for item in Img2Dataset().read(Request(tmp_path))[""].items() if isinstance(item, Item)} == {None}
    named = Img2Dataset().read(Request(tmp_path, label_field="place"))[""]
    assert [item.label for item in named.items() if isinstance(item, Item)] == ["Rome"] * 3


def test_borders_are_seen_in_the_metadata(tmp_path: Path) -> None:
    for square, share in (True, 1.0), (False, 0.0):
        pq.write_table(pa.table(metadata(square)), tmp_path / "00000.parquet")
        assert padded_or_cut([tmp_path / "00000.parquet"]) == share
