from pathlib import Path

import pytest

from largescale.settings import UserError
from shards.sources.benchmarks.holidays import Holidays
from tests.shards.photographs import write_photographs


def test_groups_are_labels_and_round_numbers_are_queries(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["jpg/100000.jpg", "jpg/100001.jpg", "jpg/100002.jpg", "jpg/100100.jpg", "jpg/100101.jpg"])
    source = Holidays(tmp_path)
    assert [(item.key, item.label) for item in source.items()] == [
        ("100000", "1000"), ("100001", "1000"), ("100002", "1000"), ("100100", "1001"), ("100101", "1001")
    ]  # fmt: skip
    assert source.ground_truth() == {
        "protocol": "holidays",
        "queries": [
            {"key": "100000", "box": None, "ok": ["100001", "100002"], "junk": ["100000"]},
            {"key": "100100", "box": None, "ok": ["100101"], "junk": ["100100"]},
        ],
        "gallery": None,
    }


def test_the_real_list_of_names(tmp_path: Path, shared_data: Path) -> None:
    names = [line.split()[0] for line in (shared_data / "oxford5k" / "holidays_images.dat").read_text().splitlines()]
    for name in names:
        (tmp_path / name).touch()
    queries = Holidays(tmp_path).ground_truth()["queries"]
    assert (len(names), len(queries)) == (1491, 500)
    assert sum(len(query["ok"]) for query in queries) == 991


def test_other_names_and_groups_without_query_are_errors(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["100101.jpg"])
    with pytest.raises(UserError, match="group of image 100101 has no query"):
        Holidays(tmp_path).ground_truth()
    write_photographs(tmp_path, ["cat.jpg"])
    with pytest.raises(UserError, match="not named by a number"):
        list(Holidays(tmp_path).items())
