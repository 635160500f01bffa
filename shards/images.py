"""An image as a corpus stores it: JPEG or PNG, upright, RGB or gray, its longest side bounded."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError, features
from pydantic import Field

from largescale.settings import Settings, UserError
from shards.sources import Source

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""
KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}


class BadImageError(Exception):
    """The bytes are no image that can be decoded to the end."""


class Encoding(Settings):
    """How images are stored."""

    max_side: int = Field(default=512, ge=0)
    """Longest side in pixels; larger images are shrunk, smaller ones keep their size. 0: no limit."""
    quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality (chroma 4:2:0) of the images that are encoded anew."""

    def described(self) -> dict[str, str | int]:
        encoder = f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"
        scaling = "lanczos, after DCT scaling to at least twice the size"
        return {"max_side": self.max_side, "filter": scaling, "quality": self.quality, "encoder": encoder}


class Stored(NamedTuple):
    data: bytes
    suffix: str
    width: int
    height: int


def stored_image(source: Source, place: str, encoding: Encoding) -> Stored:
    """An image of a source as the corpus holds it; UserError where the source cannot be read, BadImageError as in `store`."""
    try:
        data = source.read(place)
    except OSError as error:
        raise UserError(
            f"{place} cannot be read ({error}); finished shards are kept: repair the source and repeat the command"
        ) from None
    return store(data, encoding)


def store(data: bytes, encoding: Encoding) -> Stored:
    """The image in the form that the corpus holds; its own bytes where nothing has to change.

    Raises:
        BadImageError: undecodable, truncated, or so large that it can only be a decompression bomb.
    """
    try:
        return _store(data, encoding)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("no image format that Pillow knows") from None
    except Exception as error:  # decoders raise whatever their format's parser stumbles on
        raise BadImageError(f"{type(error).__name__}: {error}") from None


def _store(data: bytes, encoding: Encoding) -> Stored:
    image: Image.Image = Image.open(io.BytesIO(data))
    fits = not encoding.max_side or max(image.size) <= encoding.max_side
    turn = TURNS.get(_orientation(image))
    if fits and turn is None and image.format in KEPT and image.mode in ("RGB", "L"):
        return Stored(data, KEPT[image.format], *decoded_size(data))
    if image.mode not in ("RGB", "L", "CMYK"):  # a palette cannot be interpolated
        image = _eight_bits(image).convert("RGB")
    if not fits:
        image.thumbnail((encoding.max_side, encoding.max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    upright = image if turn is None else image.transpose(turn)
    return _encode(upright.convert("RGB"), encoding.quality)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken metadata around a sound image
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow would clip samples of 16 bits to 255, which leaves a white image."""
    if image.mode == "F":
        raise ValueError("floating-point samples have no stated range")
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode.startswith("I") else image


def decoded_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image that can be decoded to its end; raises what Pillow raises for one that cannot."""
    image = Image.open(io.BytesIO(data))
    size = image.size
    image.draft(None, (1, 1))  # truncation is found at an eighth of the size as well
    image.load()
    return size


def _encode(image: Image.Image, quality: int) -> Stored:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Stored(buffer.getvalue(), "jpg", *image.size)


def stored_box(box: Sequence[float], data: bytes, width: int, height: int) -> list[float]:
    """A box in the pixels of a source file, in those of its stored image of `width` x `height`, inside the image."""
    image = Image.open(io.BytesIO(data))
    (w, h), orientation = image.size, _orientation(image)
    corners = [_upright(x, y, w, h, orientation) for x, y in (box[:2], box[2:])]
    if orientation in (5, 6, 7, 8):
        w, h = h, w
    xs = sorted(min(max(x * width / w, 0.0), float(width)) for x, _ in corners)
    ys = sorted(min(max(y * height / h, 0.0), float(height)) for _, y in corners)
    return [xs[0], ys[0], xs[1], ys[1]]


def _upright(x: float, y: float, w: int, h: int, orientation: int) -> tuple[float, float]:
    """Where EXIF orientation 1 to 8 puts a point of a file of w x h pixels."""
    places = {2: (w - x, y), 3: (w - x, h - y), 4: (x, h - y), 5: (y, x), 6: (h - y, x), 7: (h - y, w - x), 8: (y, w - x)}
    return places.get(orientation, (x, y))
