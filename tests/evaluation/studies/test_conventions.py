"""Rankings small enough to score by hand, under each convention."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from largescale.evaluation.studies.config import ConventionsConfig
from largescale.evaluation.studies.conventions import ours, read_rankings, score
from largescale.settings import UserError
from launch.study import main

Row = tuple[str, str, float | None, int]
OXFORD, LABELS, LANDMARKS = "ours: Oxford, Paris, Holidays", "ours: labels", "ours: Google Landmarks, ILIAS"


def write(file: Path, rows: Sequence[Row]) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("query", "image", "score", "relevant"), *rows])
    return file


def query(name: str, relevant: str, scores: Sequence[float | None] | None = None) -> list[Row]:
    """`+` right, `-` wrong, `j` junk, best first."""
    values = scores or [1 - place / 100 for place in range(len(relevant))]
    meaning = {"+": 1, "-": 0, "j": -1}
    return [(name, f"{name}{i}", value, meaning[x]) for i, (x, value) in enumerate(zip(relevant, values, strict=True))]


def scored(tmp_path: Path, rows: Sequence[Row], k: int = 5, right_first: bool = False) -> dict[tuple[str, str], float]:
    """Package names without their versions."""
    found = score(read_rankings(write(tmp_path / "x.csv", rows)), k, right_first)
    return {(measure, tool if tool.startswith("ours") else tool.split(" ")[0]): value for (measure, tool), value in found.items()}


@pytest.mark.slow
def test_junk_is_no_place_of_a_ranking(tmp_path: Path) -> None:
    found = scored(tmp_path, query("a", "j+j-+-"), k=4)
    assert found["AP", OXFORD] == found["AP", "revisitop"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert found["AP", LABELS] == found["AP", "scikit-learn"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["AP at R", LABELS] == 1 / 2
    assert found["precision at k", LABELS] == 2 / 4
    assert found["precision at k", OXFORD] == found["precision at k", "revisitop"] == pytest.approx(2 / 3)


def test_wrong_images_come_first_among_equal_scores(tmp_path: Path) -> None:
    rows = query("a", "+--", [0.5, 0.5, 0.5])
    worst, best = (scored(tmp_path, rows, right_first=x) for x in (False, True))
    assert worst["AP", LABELS] == best["AP", LABELS] == pytest.approx(1 / 3)
    assert (worst["AP", "revisitop"], best["AP", "revisitop"]) == (pytest.approx(1 / 6), 1)
    assert worst["AP", "scikit-learn"] == best["AP", "scikit-learn"] == pytest.approx(1 / 3)


def test_what_was_not_found_stays_in_the_divisor(tmp_path: Path) -> None:
    found = scored(tmp_path, query("a", "+-+", [0.9, 0.8, None]))
    assert found["AP", OXFORD] == found["AP", "Holidays'"] == found["AP", LABELS] == 1 / 2
    assert found["AP", "scikit-learn"] == 1  # it sees only what was ranked
    assert found["any at k", LABELS] == 1


def test_queries_without_a_positive_are_in_no_mean_of_ours(tmp_path: Path) -> None:
    found = scored(tmp_path, [*query("a", "+-"), *query("b", "--"), *query("c", "j")])
    assert found["AP", OXFORD] == found["AP", LABELS] == found["AP", "revisitop"] == 1
    assert found["AP", "Oxford's"] != found["AP", "Oxford's"]  # 0/0


def test_fewer_neighbors_than_positives(tmp_path: Path) -> None:
    """A perfect ranking, cut to 3 of its 10 positives."""
    found = scored(tmp_path, query("a", "+" * 10), k=3)
    assert found["AP at k", LANDMARKS] == 1
    assert found["AP at k", "pytorch-metric-learning"] == pytest.approx(0.3)
    assert found["AP at R, k neighbors", "pytorch-metric-learning"] == pytest.approx(0.3)
    assert found["AP at R", "pytorch-metric-learning"] == found["AP at R", LABELS] == 1


def test_csv_and_parquet_are_read_alike(tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", query("1", "+-j", [0.5, 0.25, None]))
    table = read_rankings(file)
    pa.parquet.write_table(table, tmp_path / "x.parquet")
    assert read_rankings(tmp_path / "x.parquet").equals(table)
    assert ours([table], 1)[LABELS]["AP"] == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("query,image,score\na,b,1\n", "expected CSV or Parquet with the columns query, image, score, relevant"),
        ("query,image,score,relevant\n", "has no rows"),
        ("query,image,score,relevant\na,b,1,2\n", r"relevant is 1 \(right\), 0 \(wrong\) or -1 \(junk\); found \['2'\]"),
        ("query,image,score,relevant\na,b,nan,1\n", "a score is NaN"),
        ("query,image,score,relevant\na,b,1,1\na,b,2,1\n", "has image b twice for query a"),
    ],
)
def test_what_cannot_be_scored_is_said(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=error):
        read_rankings(tmp_path / "x.csv")


@pytest.mark.slow
def test_the_program_prints_and_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "x.csv", query("a", "+-"))
    main(["conventions", f"scores={file}", f"out={tmp_path}"])
    printed = capsys.readouterr().out
    assert "wrong first %" in printed
    assert (tmp_path / "conventions.json").exists()
    assert ConventionsConfig(scores=file).k == 5
