"""An image as a corpus stores it: JPEG or PNG, upright, sRGB or gray, its longest side bounded."""

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import PIL
import simplejpeg
from PIL import Image, features
from pydantic import Field

from largescale.corpus.decoding.pixels import (
    BadImageError,
    as_shown,
    decoding,
    flat,
    open_picture,
    orientation_of,
    to_srgb,
    upright,
)
from largescale.settings import Settings, UserError

from .sources import Source

SIDEWAYS = (5, 6, 7, 8)
"""Orientations of images that lie on their side."""
KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
ENOUGH = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still so many times the size to be stored."""


class Encoding(Settings):
    """How images are stored."""

    max_side: int = Field(default=512, ge=0)
    """Longest side in pixels; larger images are shrunk, smaller ones keep their size. 0: no limit."""
    quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality (chroma 4:2:0) of the images that are encoded anew."""

    def described(self) -> dict[str, str | int]:
        libraries = {"simplejpeg": simplejpeg.__version__, "Pillow": PIL.__version__}
        libraries |= {
            name: features.version(part) for name, part in (("libjpeg-turbo", "libjpeg_turbo"), ("LittleCMS", "littlecms2"))
        }
        encoder = ", ".join(f"{name} {version}" for name, version in libraries.items())
        scaling = f"lanczos of torch {version('torch').partition('+')[0]}, after DCT scaling to at least twice the size"
        return {"max_side": self.max_side, "filter": scaling, "quality": self.quality, "encoder": encoder}

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) of the stored image, before it is turned."""
        scale = min(1.0, self.max_side / max(width, height)) if self.max_side else 1.0
        return max(1, round(height * scale)), max(1, round(width * scale))


class StoredImage(NamedTuple):
    data: bytes
    suffix: str
    width: int
    height: int


def stored_image(source: Source, place: str, encoding: Encoding) -> StoredImage:
    """An image of a source as the corpus holds it; UserError where the source cannot be read, BadImageError as in `store`."""
    try:
        data = source.read(place)
    except OSError as error:
        raise UserError(
            f"{place} cannot be read ({error}); finished shards are kept: repair the source and repeat the command"
        ) from None
    return store(data, encoding)


def store(data: bytes, encoding: Encoding) -> StoredImage:
    """The image in the form that the corpus holds; its own bytes where nothing has to change.

    Raises:
        BadImageError: undecodable, truncated, or so large that it can only be a decompression bomb.
    """
    with decoding():
        image = open_picture(data)
        (width, height), profile = image.size, image.info.get("icc_profile")
        shape = encoding.shape(width, height)
        fits = shape == (height, width)
        if fits and image.format in KEPT and as_shown(image):
            return StoredImage(data, KEPT[image.format], *decoded_size(data))
        pixels, scale = _decode(image, data, shape)
        orientation = orientation_of(image)  # of a TIFF, none is left once it is decoded
        shrunk = pixels if fits else shrink(pixels, shape, (height * scale, width * scale))
        return _encode(upright(to_srgb(Image.fromarray(shrunk, _mode(shrunk)), profile), orientation), encoding.quality)


def _decode(image: Image.Image, data: bytes, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """(h, w) gray or (h, w, 3 or 4) RGB or CMYK pixels, and their scale: a JPEG is decoded with `ENOUGH` for `shape`."""
    scale = 1.0
    if image.format in ("JPEG", "MPO"):
        scale = _reduction(image.size, shape)
        least = [math.ceil(side * scale) for side in (image.height, image.width)]
        if image.mode in ("RGB", "L"):
            try:
                channels = "RGB" if image.mode == "RGB" else "GRAY"
                pixels = simplejpeg.decode_jpeg(data, channels, min_height=least[0], min_width=least[1], min_factor=1 / scale)
                return (pixels.squeeze(2) if image.mode == "L" else pixels), scale
            except ValueError:  # libjpeg-turbo warns of harmless faults as of fatal ones; Pillow tells them apart
                pass
        image.draft(None, (least[1], least[0]))
    image.load()  # before `flat` asks for its mode: a PNG's transparency may be found on the way
    return np.array(flat(image)), scale


def _reduction(size: tuple[int, int], shape: tuple[int, int]) -> float:
    """The least of 1, 1/2, 1/4, 1/8 that leaves `ENOUGH` of both sides."""
    spare = min(size[1] / shape[0], size[0] / shape[1]) / ENOUGH
    return next((scale for scale in (1 / 8, 1 / 4, 1 / 2) if scale * spare >= 1), 1)


def shrink(pixels: np.ndarray, shape: tuple[int, int], covered: tuple[float, float]) -> np.ndarray:
    """`(h, w)` or `(h, w, channels)` uint8 -> `(*shape, ...)`: Lanczos (a = 3) with antialiasing, the same on every processor.

    Args:
        covered: height and width of the picture in these pixels, the last of which may lie partly beyond it.
    """
    import torch

    planes = torch.from_numpy(pixels).view(*pixels.shape[:2], -1)
    out = torch.empty((*shape, planes.shape[2]), dtype=torch.uint8)
    scales = shape[0] / covered[0], shape[1] / covered[1]
    scale = torch.ops.aten._upsample_lanczos2d_aa.out
    scale(planes.permute(2, 0, 1)[None], shape, False, *scales, out=out.permute(2, 0, 1)[None])
    return out.numpy().reshape(*shape, *pixels.shape[2:])


def _mode(pixels: np.ndarray) -> str:
    return "L" if pixels.ndim == 2 else {3: "RGB", 4: "CMYK"}[pixels.shape[2]]


def decoded_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image that can be decoded to its end; BadImageError for one that cannot."""
    with decoding():
        image = open_picture(data)
        size = image.size
        image.draft(None, (1, 1))  # truncation is found at an eighth of the size as well
        image.load()
        return size


def _encode(image: Image.Image, quality: int) -> StoredImage:
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling="420")
    return StoredImage(data, "jpg", *image.size)


def size_in_file(data: bytes) -> tuple[int, int]:
    """Width and height as the file has them, before it is turned."""
    with decoding():
        image = open_picture(data)
        sideways = image.format == "TIFF" and orientation_of(image) in SIDEWAYS  # Pillow gives the size that it will have
        return image.size[::-1] if sideways else image.size


def stored_box(box: Sequence[float], data: bytes, width: int, height: int) -> list[float]:
    """A box in the pixels of a source file, in those of its stored image of `width` x `height`, inside the image.

    Raises:
        BadImageError: nothing of the box is inside.
    """
    (w, h), orientation = size_in_file(data), orientation_of(open_picture(data))
    corners = [_upright(x, y, w, h, orientation) for x, y in (box[:2], box[2:])]
    if orientation in SIDEWAYS:
        w, h = h, w
    xs = sorted(min(max(x * width / w, 0.0), float(width)) for x, _ in corners)
    ys = sorted(min(max(y * height / h, 0.0), float(height)) for _, y in corners)
    if xs[0] == xs[1] or ys[0] == ys[1]:
        raise BadImageError(f"its box {', '.join(f'{side:g}' for side in box)} lies outside of its {w} x {h} pixels")
    return [xs[0], ys[0], xs[1], ys[1]]


def _upright(x: float, y: float, w: int, h: int, orientation: int) -> tuple[float, float]:
    """Where EXIF orientation 1 to 8 puts a point of a file of w x h pixels."""
    places = {2: (w - x, y), 3: (w - x, h - y), 4: (x, h - y), 5: (y, x), 6: (h - y, x), 7: (h - y, w - x), 8: (y, w - x)}
    return places.get(orientation, (x, y))
