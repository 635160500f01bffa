"""What other programs read is read back the way they do."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from largescale.commit import DamagedError
from largescale.describing.config import Format
from largescale.describing.formats import nearest_others, write_descriptors, write_names, write_pairs
from largescale.describing.result import require_described, write_result
from largescale.settings import UserError

NAMES = ["a.jpg", "deep/b c.jpg", "deep/ünï.jpg", "d.jpg", "e.jpg"]
ROWS = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)


def rows() -> Iterator[tuple[list[str], np.ndarray]]:
    yield NAMES[:2], ROWS[:2]
    yield [], ROWS[:0]
    yield NAMES[2:], ROWS[2:]


def read_npy(path: Path) -> tuple[list[str], np.ndarray]:
    return (path.parent / "names.txt").read_text().splitlines(), np.load(path, mmap_mode="r")


def read_fvecs(path: Path) -> tuple[list[str], np.ndarray]:
    """As `fvecs_read` of FAISS's examples."""
    numbers = np.fromfile(path, dtype="int32")
    return (path.parent / "names.txt").read_text().splitlines(), numbers.reshape(-1, numbers[0] + 1)[:, 1:].view("float32")


def read_hdf5(path: Path) -> tuple[list[str], np.ndarray]:
    """As hloc's `list_h5_names` and `get_descriptors` of `pairs_from_retrieval`."""
    names = []
    with h5py.File(str(path), "r", libver="latest") as file:
        file.visititems(lambda _, item: names.append(item.parent.name.strip("/")) if isinstance(item, h5py.Dataset) else None)
        names = sorted(set(names), key=NAMES.index)
        return names, np.stack([file[name]["global_descriptor"].__array__() for name in names])


def read_table(path: Path) -> tuple[list[str], np.ndarray]:
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
    assert table.schema.metadata[b"model"] == b"0123"
    return table["key"].to_pylist(), np.stack(table["descriptor"].to_numpy())


@pytest.mark.parametrize(
    ("format", "read"),
    [("npy", read_npy), ("fvecs", read_fvecs), ("hdf5", read_hdf5), ("parquet", read_table), ("arrow", read_table)],
)
def test_what_is_written_is_read(tmp_path: Path, format: Format, read: object) -> None:
    files = write_descriptors(tmp_path, format, rows(), 5, 8, {"model": "0123"})
    names, found = read(tmp_path / files[0])  # type: ignore[operator]
    assert names == NAMES
    np.testing.assert_array_equal(found, ROWS)
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())


def test_what_was_changed_since_is_found(tmp_path: Path) -> None:
    files = write_descriptors(tmp_path, "fvecs", rows(), 5, 8, {})
    write_result(tmp_path, {"dim": 8}, files)
    for name in files:
        require_described(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
        with pytest.raises(DamagedError, match=f"{name} is damaged or was changed"):
            require_described(tmp_path / name)
    (tmp_path / "others.npy").touch()
    require_described(tmp_path / "others.npy")


def test_pairs_are_the_nearest_others(tmp_path: Path) -> None:
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    expected = np.argsort(-similarity, axis=1)[:, :2]
    np.testing.assert_array_equal(nearest_others(unit, 2, "cosine"), expected)
    write_pairs(tmp_path / "pairs.txt", list("abcde"), expected)
    lines = [line.split() for line in (tmp_path / "pairs.txt").read_text().splitlines()]
    assert lines[:2] == [["a", "abcde"[expected[0, 0]]], ["a", "abcde"[expected[0, 1]]]]
    assert len(lines) == 10


def test_equal_rows_are_no_partners_of_themselves() -> None:
    found = nearest_others(np.repeat(ROWS[:1], 5, axis=0), 3, "l2")
    assert all(row not in others for row, others in enumerate(found.tolist()))
    assert nearest_others(ROWS[:2], 5, "l2").tolist() == [[1], [0]]


def test_a_space_would_end_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 names have spaces, for instance 'deep/b c.jpg'"):
        write_pairs(tmp_path / "pairs.txt", NAMES, np.zeros((5, 1), int))


def test_a_line_break_would_end_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 names have line breaks, for instance 'b\\nc.jpg'"):
        write_names(tmp_path, ["a.jpg", "b\nc.jpg"])
