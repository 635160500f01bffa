"""Pickles from elsewhere: plain containers, arrays of numbers and texts, and nothing that could run code.

The reader is Python's own in Python, not in C: a file cannot make that one take memory that it does not fill. Of numpy's
classes nothing is called by the file; arrays are put together here, from bytes and a dtype that is checked.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from largescale.settings import UserError

KINDS = "biufcSU"
"""Of arrays: truth values, numbers and texts."""


class _Dtype:
    """A dtype of numbers or texts; of its state only the order of bytes is heard."""

    def __init__(self, name: str, *_: Any) -> None:
        self.value = np.dtype(str(name))
        if self.value.kind not in KINDS:
            raise pickle.UnpicklingError(f"it holds an array of {self.value}")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that is empty until its state is read."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        content = _array(data, dtype, shape, "F" if by_columns else "C")
        plain = (1, content.shape, content.dtype, content.flags.fnc, content.tobytes("A"))
        super().__setstate__(plain)  # type: ignore[arg-type]


def _array(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    if isinstance(data, str):  # bytes of Python 2
        data = data.encode("latin1")
    return np.frombuffer(bytes(data), dtype.value).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return _array(data, dtype, ())[()]


def _bytes(kind: Callable[..., Any]) -> Callable[..., Any]:
    def made(*arguments: Any) -> Any:
        if arguments and not isinstance(arguments[0], (str, bytes)):
            raise pickle.UnpicklingError(f"it asks for {arguments[0]!r:.40} bytes")
        return kind(*arguments)

    return made


def _encode(text: str, encoding: str) -> bytes:
    """How Python 2 protocols spell bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for bytes in {encoding}")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytes"): _bytes(bytes),
    ("builtins", "bytearray"): _bytes(bytearray),
    ("builtins", "complex"): complex,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): "ndarray",  # an argument of the next, and nothing that can be called
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: np.empty(0).view(_Array),
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _array,
    ("numpy", "dtype"): _Dtype,
}
MOVED = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}


class _Plain(pickle._Unpickler):
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        place = (MOVED.get(module, module), name)
        if place not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[place]

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Array, _Dtype)):
            raise pickle.UnpicklingError(f"it sets the state of {self.stack[-1]!r:.40}")
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def load_plain(path: Path) -> Any:
    """The value of a pickle that holds dicts, lists, numbers, text and arrays of those; text of Python 2 is read as latin-1.

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
            f"{path} is not a pickle of plain containers and arrays of numbers and texts ({error}): "
            "other contents could run code and are not read; download it again or check where it came from"
        ) from None
