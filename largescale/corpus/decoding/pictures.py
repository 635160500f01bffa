"""Pictures that are in no shard, read as those of a corpus are: files, encoded bytes, pixels.

n pictures; h, w pixels.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from torch import Tensor

from largescale.corpus.config import StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.decoding.pixels import (
    BadImageError,
    as_shown,
    decoding,
    open_picture,
    open_regular,
    orientation_of,
    rgb_pixels,
    to_rgb,
    upright,
)
from largescale.corpus.manifest import Manifest, Shard
from largescale.corpus.storage.storage import LocalStorage

Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A file, an encoded image, or pixels: of Pillow, (h, w, 3) or (h, w) uint8, or a tensor (3, h, w) uint8."""
Content = bytes | Callable[[], np.ndarray]
"""An encoded image as a tar holds it, or what gives its (h, w, 3) pixels."""


class Header(NamedTuple):
    """What is known of a picture before it is decoded."""

    width: int
    height: int
    bytes: int
    as_shown: bool
    """Whether its bytes are what a corpus would store of it; else it must be turned upright or converted first. Width and
    height are those of the upright picture."""


NO_HEADER = Header(1, 1, 0, True)


@dataclass(frozen=True)
class Listing(Manifest):
    """A manifest that exists in memory only."""

    def __reduce__(self) -> Any:
        return Listing, (self.storage, self.name, self.fingerprint, self.shards, self.made, self.files, self.columns)


@dataclass(frozen=True)
class Given:
    """The content of pictures in memory or in files, by their place."""

    pictures: Sequence[Picture]
    as_shown: Sequence[bool]

    def __call__(self, id: int) -> Content:
        return content_of(self.pictures[id], self.as_shown[id])


class PictureCorpus(Corpus):
    """Pictures as a corpus: `content` gives each by its id."""

    def __init__(self, manifest: Manifest, content: Callable[[int], Content]) -> None:
        super().__init__(manifest)
        self.content = content

    def __reduce__(self) -> Any:
        return PictureCorpus, (self.manifest, self.content)

    def each(self, ids: Sequence[int] | np.ndarray) -> Iterator[Any]:
        return map(self.content, np.asarray(ids).tolist())

    def stream(self, shard: int, ids: np.ndarray | None = None) -> Iterator[tuple[int, Any]]:
        start = self.manifest.shard_start
        wanted = np.arange(start[shard], start[shard + 1]) if ids is None else ids
        return zip(wanted.tolist(), self.each(wanted), strict=True)


def given(pictures: Sequence[Picture]) -> tuple[PictureCorpus, dict[int, str]]:
    """Pictures in memory, or files, as a corpus of one shard, and what is wrong with some, by their place."""
    headers, faults = list[Header](), dict[int, str]()
    for place, picture in enumerate(pictures):
        try:
            headers.append(header_of(picture))
        except BadImageError as error:
            headers.append(NO_HEADER)
            faults[place] = str(error)
    names = [str(picture) if isinstance(picture, (str, Path)) else f"picture {i}" for i, picture in enumerate(pictures)]
    sizes = np.array([header[:3] for header in headers], np.int64).reshape(-1, 3)
    manifest = listed("pictures", names, sizes, [len(pictures)])
    return PictureCorpus(manifest, Given(pictures, [header.as_shown for header in headers])), faults


def listed(
    location: str, keys: Sequence[str] | pa.Array, sizes: np.ndarray, per_shard: Sequence[int], fingerprint: str = ""
) -> Listing:
    """The manifest of pictures without label.

    Args:
        sizes: `(n, 3)` width, height and bytes of each.
        per_shard: how many are in each of what stands for a shard.
    """
    width, height, size = sizes.T
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
    return Listing(LocalStorage(location, StorageConfig()), location, fingerprint, shards, {}, {}, columns)


def header_of(picture: Picture) -> Header:
    """
    Raises:
        BadImageError: a file that cannot be read, or that is no image; pixels of another shape or type.
    """
    if isinstance(picture, (np.ndarray, Tensor)):
        height, width, _ = _pixels(picture).shape
        return Header(width, height, height * width * 3, True)
    if isinstance(picture, Image.Image):
        return _header(picture, picture.width * picture.height * 3)
    if isinstance(picture, bytes):
        with decoding():
            return _header(open_picture(picture), len(picture))
    try:
        with open_regular(picture) as file, decoding(), open_picture(file) as image:
            return _header(image, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise BadImageError(f"it cannot be read ({error.strerror or error})") from None


def content_of(picture: Picture, as_shown: bool) -> Content:
    """What the decoder takes; the bytes themselves only where they are `as_shown`, as they are in a corpus."""
    if isinstance(picture, (np.ndarray, Tensor)):
        return functools.partial(_pixels, picture)
    if isinstance(picture, Image.Image):
        return functools.partial(_rgb, picture)
    try:
        data = picture if isinstance(picture, bytes) else _content(picture)
    except OSError as error:
        return functools.partial(unreadable, f"it cannot be read ({error.strerror or error})")
    except BadImageError as error:
        return functools.partial(unreadable, str(error))
    return data if as_shown else functools.partial(rgb_pixels, data)


def _content(path: str | Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def unreadable(why: str) -> np.ndarray:
    """
    Raises:
        BadImageError: always; a content that says why there is none.
    """
    raise BadImageError(why)


def _header(image: Image.Image, size: int) -> Header:
    sideways = orientation_of(image) in (5, 6, 7, 8) and image.format != "TIFF"  # of which Pillow gives the upright size
    width, height = image.size[::-1] if sideways else image.size
    return Header(width, height, size, as_shown(image))


def _rgb(image: Image.Image) -> np.ndarray:
    with decoding():
        image.load()  # a TIFF is turned by this
        return np.array(upright(to_rgb(image), orientation_of(image)))


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
