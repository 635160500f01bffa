from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.commit import MARKER, partial, read_json, write_array, write_json
from largescale.corpus.batches.batches import BadImage
from largescale.corpus.manifest import sha256_of
from largescale.mining.generations import HEAD, Generations, QueryPart
from largescale.settings import UserError

QUERIES = np.arange(10) + 2**40


def part(rows: np.ndarray) -> QueryPart:
    negatives = rows[:, None] * 10 + np.arange(3)
    return QueryPart(rows, QUERIES[rows], negatives, np.where(negatives % 7, 1 / (1 + negatives), np.nan).astype(np.float32))


def write(run: Path, epoch: int, step: int = 5, ranks: int = 3) -> Path:
    generations = Generations(run, "abc")
    generations.begin(epoch, step)
    parts = dict(generations.write_part(epoch, step, rank, part(np.arange(10)[rank::ranks])) for rank in range(ranks))
    generations.commit(epoch, step, parts, [BadImage("k", "s", "why")], {"pool": 99.0})
    return generations.path(epoch, step)


def test_what_was_written_is_read_in_the_order_of_the_plan(tmp_path: Path) -> None:
    write(tmp_path, 7)
    found, expected = Generations(tmp_path, "abc").read(7, 5), part(np.arange(10))
    assert found is not None
    assert (found.epoch, found.step, found.fingerprint, found.statistics) == (7, 5, "abc", {"pool": 99.0})
    assert found.faults == [BadImage("k", "s", "why")]
    np.testing.assert_array_equal(found.queries, QUERIES)
    np.testing.assert_array_equal(found.negatives, expected.negatives)
    np.testing.assert_array_equal(found.similarities, expected.similarities)


def test_bytes_do_not_say_how_many_ranks_wrote(tmp_path: Path) -> None:
    write(tmp_path / "one", 7, ranks=1)
    write(tmp_path / "four", 7, ranks=4)
    one, four = (Generations(tmp_path / name, "abc").read(7, 5) for name in ("one", "four"))
    assert one is not None
    assert four is not None
    assert one.negatives.tobytes() == four.negatives.tobytes()


@pytest.mark.slow
def test_the_newest_whole_one_up_to_an_epoch(tmp_path: Path) -> None:
    generations = Generations(tmp_path, "abc")
    assert generations.latest(100) is None
    for epoch in (0, 2, 11):
        write(tmp_path, epoch)
    assert [found.epoch for epoch in (0, 1, 2, 10, 11, 12) if (found := generations.latest(epoch))] == [0, 0, 2, 2, 11, 11]
    (tmp_path / "negatives" / "gen-000002-000005" / MARKER).unlink()
    assert [found.epoch for epoch in (2, 10) if (found := generations.latest(epoch))] == [0, 0]
    assert generations.newest(1) is None


@pytest.mark.slow
def test_of_an_epoch_the_newest_weights_count(tmp_path: Path) -> None:
    generations = Generations(tmp_path, "abc")
    for epoch, step in ((1, 8), (1, 1_000_000), (1, 12), (2, 3)):
        write(tmp_path, epoch, step)
    assert [(found.epoch, found.step) for epoch in (1, 2) if (found := generations.newest(epoch))] == [(1, 1_000_000), (2, 3)]
    (generations.path(1, 1_000_000) / "part-00001.npy").unlink()
    assert [(found.epoch, found.step) for found in [generations.newest(1), generations.latest(1)] if found] == [(1, 12)] * 2
    assert generations.read(1, 8) is not None
    assert generations.newest(0) is None


def truncate(directory: Path) -> None:
    path = directory / "part-00001.npy"
    path.write_bytes(path.read_bytes()[:-5])


def flip(directory: Path) -> None:
    path = directory / "part-00000.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def say(**values: Any) -> Callable[[Path], None]:
    """Another head, with its checksum, as somebody would write it who knows how."""
    return lambda directory: write_json(directory / HEAD, read_json(directory / HEAD) | values)


def negative(directory: Path) -> None:
    """An id that would mean the last image."""
    table = np.load(directory / "part-00000.npy")
    table["negatives"][0, 0] = -1
    write_array(directory / "part-00000.npy", table)
    parts = read_json(directory / HEAD)["parts"]
    say(parts=parts | {"part-00000.npy": sha256_of(directory / "part-00000.npy")})(directory)


DAMAGES = {
    "part cut short": truncate,
    "bit flipped": flip,
    "part gone": lambda directory: (directory / "part-00002.npy").unlink(),
    "head gone": lambda directory: (directory / HEAD).unlink(),
    "head cut short": lambda directory: (directory / HEAD).write_text('{"epoch": 7'),
    "an image id of -1": negative,
    "parts that are a list": say(parts=[]),
    "no parts": say(parts={}),
    "a part elsewhere": say(parts={"../../x.npy": "0" * 64}),
    "faults that are none": say(faults=[{"key": 1}]),
    "marker gone": lambda directory: (directory / MARKER).unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_not_there_and_can_be_written_again(tmp_path: Path, damage: str) -> None:
    DAMAGES[damage](write(tmp_path, 7))
    assert Generations(tmp_path, "abc").read(7, 5) is None
    write(tmp_path, 7)
    assert Generations(tmp_path, "abc").read(7, 5) is not None


@pytest.mark.slow
def test_what_was_never_committed_is_not_there_and_is_cleared_away(tmp_path: Path) -> None:
    generations = Generations(tmp_path, "abc")
    generations.begin(3, 5)
    generations.write_part(3, 5, 0, part(np.arange(10)))
    left = partial(tmp_path / "negatives" / "gen-000003-000005")
    assert left.exists()
    assert generations.read(3, 5) is None
    assert generations.latest(9) is None
    write(tmp_path, 4)
    assert not left.exists()


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 7)
    with pytest.raises(UserError, match="mined from the corpus abc, this run reads the corpus def"):
        Generations(tmp_path, "def").read(7, 5)
