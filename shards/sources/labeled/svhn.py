"""SVHN, cropped digits: `train_32x32.mat`; stored as PNG, which loses nothing."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from largescale.settings import UserError

from .. import Item, Source
from ..layout import Layout, Request, roots

SPLITS = ("train", "test", "extra")
TEN = 10
"""The file's label of the digit 0."""


class StreetNumbers(Layout):
    name = "svhn"
    about = "SVHN, cropped digits: train_32x32.mat, test_32x32.mat, extra_32x32.mat"
    corpora = "train, test, and extra where it is there"

    def recognize(self, source: Path) -> str | None:
        return next((file for split in SPLITS if roots(source, (file := f"{split}_32x32.mat",))), None)

    def read(self, request: Request) -> Mapping[str, Source]:
        file = self.recognize(request.source)
        if file is None:
            raise UserError(f"{request.source} is no {self.name}: expected train_32x32.mat and test_32x32.mat")
        root = roots(request.source, (file,))[0]
        return {split: Digits(root, split) for split in SPLITS if (root / f"{split}_32x32.mat").is_file()}


@dataclass(frozen=True)
class Digits(Source):
    """One file; labels are digits."""

    root: Path
    split: str
    layout: str = "svhn"
    labeled = True

    def items(self) -> Iterator[Item]:
        for number, label in enumerate(_read(self.root / f"{self.split}_32x32.mat")[1].tolist()):
            yield Item(f"{self.split}/{number:06d}", str(label % TEN), str(number))

    def read(self, place: str) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(_read(self.root / f"{self.split}_32x32.mat")[0][..., int(place)]).save(buffer, "PNG")
        return buffer.getvalue()


@lru_cache(maxsize=1)
def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(32, 32, 3, n)` and labels `(n,)` from 1 to 10."""
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            content = loadmat(file, variable_names=("X", "y"))
        return content["X"], content["y"].ravel().astype(np.int64)
    except (KeyError, ValueError, TypeError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); download it again") from None
