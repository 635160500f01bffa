from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from largescale.evaluation.given import _read_names, _read_rows
from largescale.evaluation.protocol.protocols import incomplete
from largescale.settings import UserError


@pytest.mark.parametrize(
    "text", ["hall_1\ngreat hall_2\nst_paul_3\n", "\ufeffjpg/hall_1.jpg\r\ngreat hall_2.JPG\r\nst.paul_3.png\r\n\r\n"]
)
def test_names_as_people_have_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    assert _read_names(tmp_path / "names.txt") == ["hall_1", "great hall_2", "st_paul_3"]


def test_arrays_as_people_have_them(tmp_path: Path) -> None:
    names, rows = pa.array(["a", "b"]), np.array([[3.0, 4.0], [0.0, 2.0]])
    np.savez(tmp_path / "one.npz", rows)
    np.testing.assert_allclose(_read_rows(tmp_path / "one.npz", names), [[0.6, 0.8], [0, 1]])
    np.savez(tmp_path / "two.npz", rows, more=rows)
    np.save(tmp_path / "texts.npy", np.array([["a"], ["b"]]))
    (tmp_path / "none.npy").write_bytes(b"")
    (tmp_path / "a.siftgeo").write_bytes(np.zeros(42, "<f4").tobytes())  # local descriptors of Holidays, without a header
    faults = {"two.npz": "holds 2 arrays", "texts.npy": "expected numbers", "none.npy": "cannot be read"}
    for name, message in (faults | {"a.siftgeo": "does not begin as one; write a row for each image"}).items():
        with pytest.raises(UserError, match=message):
            _read_rows(tmp_path / name, names)


def test_a_benchmark_says_what_is_missing() -> None:
    assert incomplete("oxford5k-crop", 4961) == "4,961 of 5,063 images"
    assert incomplete("oxford5k-crop", 5063) is None
    assert incomplete("rparis6k-hard-nocrop", 6392) is None
    assert incomplete("labels", 7) is None
