"""Pickles from elsewhere: plain containers and numpy arrays, and nothing that could run code."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from largescale.settings import UserError

_array = np.zeros(1)
CONTAINERS = {kind.__name__: kind for kind in (set, frozenset, bytes, bytearray, complex)}
ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): _array.__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): _array[0].__reduce__()[0],
    ("numpy._core.numeric", "_frombuffer"): _array.__reduce_ex__(5)[0],
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in CONTAINERS:
            return CONTAINERS[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        place = (module.replace("numpy.core", "numpy._core"), name)
        if place not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[place]


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How Python 2 protocols spell bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for bytes in {encoding}")
    return text.encode("latin1")


def load_plain(path: Path) -> Any:
    """The value of a pickle that holds dicts, lists, numbers, text and numpy arrays; text of Python 2 is read as latin-1.

    Raises:
        UserError: anything else is in it, or it is no pickle.
    """
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except Exception as error:  # a broken pickle fails in whatever opcode is broken
        raise UserError(
            f"{path} is not a pickle of plain containers and numpy arrays ({error}): "
            "other contents could run code and are not read; download it again or check where it came from"
        ) from None
