import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from largescale.settings import UserError
from shards.sources.pickles import load_plain


class Harmful:
    def __reduce__(self) -> tuple:
        return os.system, ("touch harmed",)


OBJECTS = [np.array([None, "a"], dtype=object), np.zeros(2, [("a", object), ("b", int)]), np.zeros(2, [("a", int)])]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_and_arrays_are_read(tmp_path: Path, protocol: int) -> None:
    value = {
        "a": [1, 2.5, None, True, "ü"],
        b"b": (b"\xff", {3}),
        "c": np.arange(6).reshape(2, 3),
        "d": np.float32(1.5),
        "e": np.array(["x", "yz"]),
        "f": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        "g": np.zeros((0, 4), bool),
        "h": bytearray(b"ab"),
    }
    (tmp_path / "p").write_bytes(pickle.dumps(value, protocol))
    read = load_plain(tmp_path / "p")
    assert {key: read[key] for key in ("a", b"b", "d")} == {key: value[key] for key in ("a", b"b", "d")}  # type: ignore[index]
    np.testing.assert_array_equal(read["c"], value["c"])
    for name in "efg":
        np.testing.assert_array_equal(read[name], value[name])
        assert read[name].dtype.kind == value[name].dtype.kind  # type: ignore[attr-defined]
    assert read["h"] == b"ab"


def test_pickles_of_python_2_and_old_numpy(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"(dp0\nS'data'\np1\nS'\\xff\\x00'\np2\ns.")
    assert load_plain(tmp_path / "text") == {"data": "\xff\x00"}
    old = pickle.dumps(np.arange(3), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core" in old
    (tmp_path / "array").write_bytes(old)
    assert load_plain(tmp_path / "array").tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        Harmful(),
        [{"deep": Harmful()}],
        OrderedDict(a=1),
        np.array([Harmful()], dtype=object),
        os.getcwd,
        len,
        Path("x"),
        *OBJECTS,
    ],
)
def test_everything_else_is_refused_and_not_run(
    tmp_path: Path, value: object, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(UserError, match="plain containers and arrays of numbers and texts"):
        load_plain(tmp_path / "p")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\ngetattr\n.",
        b"c__builtin__\nbytes\n(I1000000000000\ntR.",
        b"c__builtin__\nset\n(tR}b.",
        b"cnumpy\nndarray\n((I2\ntS'O'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'12345678'\ntR.",
        b"",
        b"\x80\x04garbage",
        b"<html>",
    ],
)
def test_handwritten_and_broken_pickles_are_refused(tmp_path: Path, code: bytes) -> None:
    (tmp_path / "p").write_bytes(code)
    with pytest.raises(UserError, match=str(tmp_path / "p")):
        load_plain(tmp_path / "p")


def test_a_claim_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"I1\nr\xff\xff\xff\x7f.")  # remembered under a number of two billion
    assert load_plain(tmp_path / "p") == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_plain(tmp_path / "p")
