"""Files of descriptors in place of a network: what fits, and what does not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from largescale.distributed import World
from largescale.evaluation import Published, evaluate_descriptors, read_records
from largescale.settings import UserError
from tests.evaluation.small import settings


class Given:
    """Descriptors, names and ground truth of four images."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self.rows = np.eye(4, 8, dtype=np.float32) + np.linspace(0.3, 0, 4, dtype=np.float32)[:, None]
        self.names = ["q", "a", "b", "c"]
        self.protocol = "auto"

    def score(self) -> None:
        np.save(self.folder / "rows.npy", self.rows)
        (self.folder / "names.txt").write_text("\n".join(self.names) + "\n")
        files = {"descriptors": self.folder / "rows.npy", "names": self.folder / "names.txt", "ground_truth": self.folder / "gnd"}
        queries = [{"key": "q", "box": [0, 0, 1, 1], "ok": ["q", "a"], "junk": ["b"]}]
        published = Published.parse({"protocol": "oxford5k", "queries": queries, "gallery": ["q", "a", "b", "c"]}, "gnd")
        evaluate_descriptors(settings(self.folder / "out", protocol=self.protocol, **files), published, self.world)


@pytest.mark.slow
def test_descriptors_that_fit(tmp_path: Path, world: World) -> None:
    Given(tmp_path, world).score()
    (record,) = read_records(tmp_path / "out" / "queries-oxford5k-nocrop.jsonl")
    assert [found.key for found in record.top] == ["q", "a", "b", "c"]
    assert [found.mark for found in record.top] == ["right", "right", "junk", "wrong"]
    assert record.top[0].score == pytest.approx(1)  # scaled to unit length
    assert record.ap == 1


def _nan(given: Given) -> None:
    given.rows[2, 3] = np.nan


def _zero(given: Given) -> None:
    given.rows[1] = 0


def _missing(given: Given) -> None:
    given.rows, given.names = given.rows[:3], given.names[:3]


def _extra(given: Given) -> None:
    given.rows, given.names = np.vstack([given.rows, given.rows[:1]]), [*given.names, "d"]


def _twice(given: Given) -> None:
    given.names[3] = "b"


def _short(given: Given) -> None:
    given.names.pop()


def _other(given: Given) -> None:
    given.protocol = "paris6k"


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_nan, "rows.npy are zero or not finite: b"),
        (_zero, "rows.npy are zero or not finite: a"),
        (_missing, "1 images of the gallery are missing: c"),
        (_extra, "1 images are neither in the gallery nor queries: d"),
        (_twice, "1 keys are there twice: b"),
        (_short, "has shape (4, 8), but there are 3 names"),
        (_other, "protocol=paris6k, but"),
    ],
)
def test_descriptors_that_do_not_fit(tmp_path: Path, world: World, spoil: Callable[[Given], None], error: str) -> None:
    given = Given(tmp_path, world)
    spoil(given)
    with pytest.raises(UserError) as found:
        given.score()
    assert error in str(found.value)
    assert not (tmp_path / "out" / "results.json").exists()


def test_files_that_are_no_descriptors(tmp_path: Path, world: World) -> None:
    given = Given(tmp_path, world)
    given.rows = np.array([{}], dtype=object)  # a pickle
    with pytest.raises(UserError, match="of numbers"):
        given.score()
