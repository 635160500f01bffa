"""Pictures that are in no shard, read as those of a corpus are: files, encoded bytes, pixels.

n pictures; h, w pixels.
"""

import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from largescale.corpus.config import StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.images import BadImageError, to_rgb
from largescale.corpus.manifest import Manifest, Shard
from largescale.corpus.storage import LocalStorage

Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A file, an encoded image, or pixels: of Pillow, (h, w, 3) or (h, w) uint8, or a tensor (3, h, w) uint8."""
Content = bytes | Callable[[], np.ndarray]
"""An encoded image as a tar holds it, or what gives its (h, w, 3) pixels."""
ORIENTATION = 0x0112
"""The EXIF tag."""


class Header(NamedTuple):
    """What is known of a picture before it is decoded."""

    width: int
    height: int
    bytes: int
    turned: bool
    """Whether its EXIF orientation turns it; width and height are those of the upright picture."""


@dataclass(frozen=True)
class Listing(Manifest):
    """A manifest that exists in memory only."""

    def __reduce__(self) -> Any:
        return Listing, (self.storage, self.name, self.fingerprint, self.shards, self.made, self.files, self.columns)


@dataclass(frozen=True)
class Given:
    """The content of pictures in memory or in files, by their place."""

    pictures: Sequence[Picture]
    turned: Sequence[bool]

    def __call__(self, id: int) -> Content:
        return content_of(self.pictures[id], self.turned[id])


class Pictures(Corpus):
    """Pictures as a corpus: `content` gives each by its id."""

    def __init__(self, manifest: Manifest, content: Callable[[int], Content]) -> None:
        super().__init__(manifest)
        self.content = content

    def __reduce__(self) -> Any:
        return Pictures, (self.manifest, self.content)

    def each(self, ids: Sequence[int] | np.ndarray) -> Iterator[Any]:
        return map(self.content, np.asarray(ids).tolist())

    def stream(self, shard: int, ids: np.ndarray | None = None) -> Iterator[tuple[int, Any]]:
        start = self.manifest.shard_start
        wanted = np.arange(start[shard], start[shard + 1]) if ids is None else ids
        return zip(wanted.tolist(), self.each(wanted), strict=True)


def given(pictures: Sequence[Picture]) -> tuple[Pictures, dict[int, str]]:
    """Pictures in memory, or files, as a corpus of one shard, and what is wrong with some, by their place."""
    headers, faults = list[Header](), dict[int, str]()
    for place, picture in enumerate(pictures):
        try:
            headers.append(header_of(picture))
        except BadImageError as error:
            headers.append(Header(1, 1, 0, False))
            faults[place] = str(error)
    names = [str(picture) if isinstance(picture, (str, Path)) else f"picture {i}" for i, picture in enumerate(pictures)]
    manifest = listed("pictures", names, headers, [len(pictures)])
    return Pictures(manifest, Given(pictures, [header.turned for header in headers])), faults


def listed(location: str, keys: Sequence[str], headers: Sequence[Header], per_shard: Sequence[int]) -> Listing:
    """The manifest of pictures without label, so many per shard."""
    width, height, size, _ = (np.array(column) for column in zip(*headers, strict=True)) if headers else (np.empty(0, int),) * 4
    shards = tuple(Shard(f"part {i}", samples, 0, "") for i, samples in enumerate(per_shard))
    columns: Mapping[str, Any] = {
        "key": pa.array(keys, pa.large_string()),
        "shard": np.repeat(np.arange(len(shards), dtype=np.int32), per_shard),
        "offset": np.zeros(len(keys), np.int64),
        "size": size,
        "width": width,
        "height": height,
        "label": np.full(len(keys), -1, np.int32),
    }
    return Listing(LocalStorage(location, StorageConfig()), location, "", shards, {}, {}, columns)


def header_of(picture: Picture) -> Header:
    """
    Raises:
        BadImageError: a file that cannot be read, or that is no image; pixels of another shape or type.
    """
    if isinstance(picture, (np.ndarray, Tensor)):
        height, width, _ = _pixels(picture).shape
        return Header(width, height, height * width * 3, False)
    if isinstance(picture, Image.Image):
        return _header(picture, picture.width * picture.height * 3)
    if isinstance(picture, bytes):
        with _opened(io.BytesIO(picture)) as image:
            return _header(image, len(picture))
    try:
        with open(picture, "rb") as file, _opened(file) as image:
            return _header(image, file.seek(0, io.SEEK_END))
    except OSError as error:
        raise BadImageError(f"it cannot be read ({error.strerror or error})") from None


def content_of(picture: Picture, turned: bool) -> Content:
    """What the decoder takes."""
    if isinstance(picture, (np.ndarray, Tensor)):
        return functools.partial(_pixels, picture)
    if isinstance(picture, Image.Image):
        return functools.partial(_upright, picture)
    try:
        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    except OSError as error:
        return functools.partial(_unreadable, f"it cannot be read ({error.strerror or error})")
    return functools.partial(_turned, data) if turned else data


def _opened(file: Any) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(8)
        raise BadImageError(f"no image format begins with {start!r}" if start else "it is empty") from None
    except Image.DecompressionBombError as error:
        raise BadImageError(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise all sorts on damaged headers
        raise BadImageError(f"{type(error).__name__}: {error}") from None


def _header(image: Image.Image, size: int) -> Header:
    orientation = _orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    return Header(width, height, size, orientation != 1)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken metadata around a sound image
        return 1
    return found if found in range(1, 9) else 1


def _turned(data: bytes) -> np.ndarray:
    with _opened(io.BytesIO(data)) as image:
        return _upright(image)


def _upright(image: Image.Image) -> np.ndarray:
    try:
        upright = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
        return np.array(to_rgb(upright))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise all sorts on damaged files
        raise BadImageError(f"{type(error).__name__}: {error}") from None


def _unreadable(why: str) -> np.ndarray:
    raise BadImageError(why)


def _pixels(picture: np.ndarray | Tensor) -> np.ndarray:
    """(h, w, 3) uint8."""
    pixels = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    if isinstance(picture, Tensor) and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise BadImageError(
            f"pixels are uint8, an array (h, w, 3) or (h, w) or a tensor (3, h, w); found {tuple(picture.shape)} {picture.dtype}"
        )
    return np.require(pixels, requirements=["C", "W"])
