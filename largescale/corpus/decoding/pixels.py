"""Any picture as 8-bit sRGB: one set of rules for what is stored in a corpus, read from one, or asked with.

A viewer's rules: color profiles are converted as browsers do, transparency lies over white, the first picture of several
is taken, and orientation is applied once. Only the formats named here are opened.
"""

import functools
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Suffixes by format. The content decides which format it is: a WebP called .jpg is read as what it is."""
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
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
SAMPLE_FORMAT, SIGNED, PHOTOMETRIC, WHITE_IS_ZERO = 339, 2, 262, 0  # of TIFF; Pillow turns grays of 8 bits around by itself
EQUAL = 2
"""A profile that moves no color by more levels than this is sRGB under another name: its pictures keep their bytes."""


class BadImageError(Exception):
    """An image that cannot be used; the message says why."""


def rgb_pixels(data: bytes) -> np.ndarray:
    """Any encoded picture -> (h, w, 3) uint8, as a viewer shows it.

    Raises:
        BadImageError: undecodable, truncated, of a format that is not read, or so large that it can only be a bomb.
    """
    with decoding():
        image = open_picture(data)
        image.load()  # a TIFF is turned by this
        return np.array(upright(to_rgb(image), orientation_of(image)))


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever a decoder raises on damaged data becomes a BadImageError."""
    try:
        yield
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever their format's parser stumbles on
        raise BadImageError(f"{type(error).__name__}: {error}") from None


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file; BadImageError for a pipe, whose end might never come, a device or a folder."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise BadImageError("no regular file")
    return os.fdopen(file, "rb")


def open_picture(data: bytes | BinaryIO) -> Image.Image:
    """The picture in a file of one of the formats, not decoded yet."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        _register_heif()
    try:
        return Image.open(file, formats=_registered())
    except UnidentifiedImageError:
        begins = f"begins with {head[:8]!r}" if head else "is empty"
        raise BadImageError(f"no picture of a format that is read: it {begins}") from None
    except Image.DecompressionBombError as error:
        raise BadImageError(str(error)) from None


@functools.lru_cache(1)
def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise BadImageError("HEIC needs pillow-heif: pip install 'largescale[heic]'") from None
    register_heif_opener(thumbnails=False)
    _registered.cache_clear()


@functools.lru_cache(1)
def _registered() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation that is still to be applied; of a TIFF, none is left once it is loaded."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken metadata around a sound image
        return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit sRGB."""
    return to_srgb(flat(image), image.info.get("icc_profile"))


def as_shown(image: Image.Image) -> bool:
    """Whether every reader sees the right picture in its bytes: upright, flat, and its colors are sRGB's."""
    if image.mode not in ("RGB", "L") or not is_flat(image) or orientation_of(image) != 1:
        return False
    profile = image.info.get("icc_profile")
    return not profile or color_transform(profile, image.mode) is None


def is_flat(image: Image.Image) -> bool:
    """Whether its pixels are shown as they are stored, but for their profile."""
    return image.mode in ("RGB", "L", "CMYK") and not image.has_transparency_data


def flat(image: Image.Image) -> Image.Image:
    """In a mode whose pixels can be interpolated: 8-bit RGB, gray or CMYK, with transparency laid over white."""
    if is_flat(image):
        return image
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode == "F":
        raise BadImageError("floating-point samples have no stated range")
    if image.mode == "LAB":
        return _from_lab().apply(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grays of 16 bits over their range; of 32 bits, over the smallest of the ranges 8, 16 and 32 that holds them."""
    gray = np.asarray(image)
    if image.mode == "I":
        signed = image.format != "TIFF" or image.tag_v2.get(SAMPLE_FORMAT) == SIGNED  # type: ignore[attr-defined]
        gray = gray.clip(0) if signed else gray.view(np.uint32)
    brightest, wide = int(gray.max(initial=0)), image.mode == "I" and image.format != "PPM"
    range = 2**16 - 1 if not wide else next(2**bits - 1 for bits in (8, 16, 32) if brightest < 2**bits)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]
        gray = range - gray.astype(np.int64)
    return Image.fromarray(np.rint(gray * (255 / range)).astype(np.uint8))


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A flat image whose colors are in `profile` as 8-bit RGB; without a (usable) profile they are sRGB already, and ink
    is what it leaves of white: (1 - C)(1 - K)."""
    transform = color_transform(profile, image.mode) if profile else None
    return image.convert("RGB") if transform is None else transform.apply(image)


@functools.lru_cache(16)
def color_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB, relative colorimetric with black point compensation; None where it changes nothing or is broken."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = _transform(source, mode)
    except (ImageCms.PyCMSError, OSError, ValueError):  # broken, or of other channels than the image: browsers ignore it as well
        return None
    if mode == "CMYK":
        return transform
    colors = _sample(mode)
    moved = np.asarray(transform.apply(colors), int) - np.asarray(colors.convert("RGB"), int)
    return transform if np.abs(moved).max() > EQUAL else None


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


@functools.lru_cache(1)
def _from_lab() -> ImageCms.ImageCmsTransform:
    return _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


@functools.lru_cache(2)
def _sample(mode: str) -> Image.Image:
    """Colors all over the cube, or every gray."""
    steps = np.linspace(0, 255, 9).round()
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3) if mode == "RGB" else np.arange(256)[None]
    return Image.fromarray(colors.astype(np.uint8))
