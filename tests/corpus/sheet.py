"""A test picture for each kind of image file, beside the pixels that a color-managed viewer shows."""

import io
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from largescale.corpus.decoding.pixels import ORIENTATION, upright
from tests.corpus import profiles


class Kind(NamedTuple):
    name: str
    data: bytes
    shown: np.ndarray
    """(h, w, 3) uint8."""
    most: int = 1
    """Levels that any channel may differ: what the format's own compression and the profile's rounding take."""


def chart(width: int = 96, height: int = 64) -> np.ndarray:
    """(h, w, 3) uint8: smooth in both directions, all hues, so that compression changes little and mistakes change much."""
    y, x = np.mgrid[0:height, 0:width] / [[[height - 1]], [[width - 1]]]
    hue = np.stack([np.cos(2 * np.pi * (x - third)) for third in (0, 1 / 3, 2 / 3)], axis=-1)
    return np.rint(127.5 + 110 * hue * y[..., None] + 17 * (x[..., None] - 0.5)).clip(0, 255).astype(np.uint8)


def inks() -> np.ndarray:
    """(2, 2, 2, 2, 3) Lab of a simple press on yellowish paper: each ink takes its share of the light, whatever lies below it."""
    solid = np.array([[-25, -20, -22], [-24, 34, -2], [-8, -3, 40], [-38, 0, -1]])
    lab = np.array([95, 0, 3]) + sum(np.indices((2, 2, 2, 2))[ink][..., None] * solid[ink] for ink in range(4))
    return np.rint(lab * [2.55, 1, 1]) / [2.55, 1, 1]  # as eight bits hold it


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def kinds() -> Iterator[Kind]:
    yield from plain()
    yield from colors()
    yield from grays()
    yield from transparent()
    yield from turned()


def plain() -> Iterator[Kind]:
    pixels = chart()
    image = Image.fromarray(pixels)
    fine = {"quality": 100, "subsampling": 0}
    yield Kind("JPEG", saved(image, "JPEG", **fine), pixels, 4)
    several = {"save_all": True, "append_images": [image.rotate(180)]}
    yield Kind("JPEG with several pictures (MPO)", saved(image, "MPO", **several, **fine), pixels, 4)
    gain = saved(image.rotate(180).convert("L").resize((48, 32)), "JPEG")
    ultra = GAIN_MAP % b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" hdrgm:GainMapMax="2.5"'
    yield Kind("JPEG with a gain map (Ultra HDR)", with_gain_map(saved(image, "JPEG", **fine), gain, ultra), pixels, 4)
    apple = GAIN_MAP % b'xmlns:HDRGainMap="http://ns.apple.com/HDRGainMap/1.0/" HDRGainMap:HDRGainMapVersion="65536"'
    base = saved(image, "JPEG", icc_profile=profiles.rgb_profile("Display P3"), **fine)
    shown = profiles.from_rgb(decoded(base), "Display P3")
    yield Kind("JPEG with a gain map (Apple), Display P3", with_gain_map(base, with_xmp(gain, apple)), shown, 2)
    for format, options in (("PNG", {}), ("BMP", {}), ("PPM", {}), ("TIFF", {"compression": "tiff_lzw"})):
        yield Kind(format, saved(image, format, **options), pixels, 0)
    yield Kind("WebP", saved(image, "WEBP", lossless=True), pixels, 0)
    yield Kind("JPEG 2000", saved(image, "JPEG2000", irreversible=False), pixels, 0)
    yield Kind("AVIF", saved(image, "AVIF", quality=100, subsampling="4:4:4"), pixels, 5)
    few = image.quantize(64, dither=Image.Dither.NONE)
    yield Kind("palette", saved(few, "PNG"), np.asarray(few.convert("RGB")), 0)
    moving = {"save_all": True, "append_images": [few.rotate(180)]}
    yield Kind("GIF with several pictures", saved(few, "GIF", **moving), np.asarray(few.convert("RGB")), 0)
    two = image.convert("1", dither=Image.Dither.NONE)
    yield Kind("black and white", saved(two, "PNG"), np.asarray(two.convert("RGB")), 0)


GAIN_MAP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" %s/></rdf:RDF></x:xmpmeta>'
)
"""XMP of a picture that has, or is, a gain map."""


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def with_xmp(jpeg: bytes, xmp: bytes) -> bytes:
    return jpeg[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp) + jpeg[2:]


def with_gain_map(base: bytes, gain: bytes, xmp: bytes = b"") -> bytes:
    """A base picture, an index of both by CIPA DC-007 (Multi-Picture Format, section 5.2), and the gain map behind it."""
    base = with_xmp(base, xmp) if xmp else base
    first, header = len(base) + 90, 2 + 8  # the index takes 90 bytes; offsets count from its TIFF header
    entries = struct.pack(">LLLHH", 0x030000, first, 0, 0, 0) + struct.pack(">LLLHH", 0, len(gain), first - header, 0, 0)
    fields = struct.pack(">HHL4s", 0xB000, 7, 4, b"0100") + struct.pack(">HHLL", 0xB001, 4, 1, 2)
    fields += struct.pack(">HHLL", 0xB002, 7, len(entries), 50)
    index = b"MPF\0MM\0*" + struct.pack(">LH", 8, 3) + fields + bytes(4) + entries
    return base[:2] + segment(0xE2, index) + base[2:] + gain


def heic() -> Kind:
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
    pixels = chart()
    return Kind("HEIC", saved(Image.fromarray(pixels), "HEIF", quality=100, chroma=444), pixels, 6)


def colors() -> Iterator[Kind]:
    """What JPEG itself changes is no matter of color: the reference starts from its decoded pixels."""
    pixels = chart()
    image, fine = Image.fromarray(pixels), {"quality": 100, "subsampling": 0}
    for name in profiles.PRIMARIES:
        icc = {"icc_profile": profiles.rgb_profile(name)}
        yield Kind(f"{name}, PNG", saved(image, "PNG", **icc), profiles.from_rgb(pixels, name), 2)
        data = saved(image, "JPEG", **icc, **fine)
        yield Kind(f"{name}, JPEG", data, profiles.from_rgb(decoded(data), name), 2)
    yield Kind("profile of other channels", saved(image, "PNG", icc_profile=profiles.gray_profile(1.0)), pixels, 0)
    yield Kind("broken profile", saved(image, "PNG", icc_profile=b"no profile" * 20), pixels, 0)
    ink = Image.fromarray(np.concatenate([pixels, pixels[::-1, :, :1] // 2], axis=2), "CMYK")
    icc = {"icc_profile": profiles.cmyk_profile(inks())}
    for format, options in (("TIFF", {}), ("JPEG", fine)):
        data = saved(ink, format, **options)
        light = 255 - decoded(data).astype(int)
        yield Kind(f"CMYK, {format}", data, np.rint(light[..., :3] * light[..., 3:] / 255).astype(np.uint8), 1)
        data = saved(ink, format, **options, **icc)
        yield Kind(f"CMYK of a press, {format}", data, profiles.from_cmyk(decoded(data), inks()), 3)


def decoded(data: bytes) -> np.ndarray:
    """The numbers in the file, whatever colors they stand for."""
    return np.asarray(Image.open(io.BytesIO(data)))


def grays() -> Iterator[Kind]:
    gray = chart()[..., 0]
    shown = gray[..., None].repeat(3, 2)
    icc = {"icc_profile": profiles.gray_profile(1.0)}
    yield Kind("gray", saved(Image.fromarray(gray), "PNG"), shown, 0)
    for format in ("PNG", "JPEG"):
        data = saved(Image.fromarray(gray), format, **icc)
        yield Kind(f"linear gray, {format}", data, profiles.from_gray(decoded(data), 1.0), 1)
    wide = Image.fromarray(gray.astype(np.uint16) * 257)
    yield Kind("gray of 16 bits, PNG", saved(wide, "PNG"), shown, 0)
    yield Kind("gray of 16 bits, TIFF", saved(wide, "TIFF"), shown, 0)
    negative = saved(Image.fromarray(65535 - gray.astype(np.uint16) * 257), "TIFF")
    tag = struct.pack("<HHIH", 262, 3, 1, 1)  # photometric interpretation: 0 is black
    yield Kind("gray of 16 bits, 0 is white, TIFF", negative.replace(tag, struct.pack("<HHIH", 262, 3, 1, 0)), shown, 0)
    dark = Image.fromarray(gray.astype(np.uint16))
    yield Kind("dark gray of 16 bits", saved(dark, "PNG"), np.rint(shown / 257).astype(np.uint8), 0)
    most = b"P5 96 64 65535\n"
    yield Kind("dark gray of 16 bits, PGM", most + gray.astype(">u2").tobytes(), np.rint(shown / 257).astype(np.uint8), 0)
    yield Kind("gray of 16 bits, PGM", most + (gray.astype(">u2") * 257).tobytes(), shown, 0)
    for range, factor in (("0 to 255", 1), ("0 to 65,535", 257)):
        yield Kind(f"gray of 32 bits, {range}", saved(Image.fromarray(gray.astype(np.int32) * factor), "TIFF"), shown, 0)
    large = (gray.astype(np.uint32) * 0x01010101).view(np.int32)
    yield Kind("gray of 32 bits, all of them", saved(Image.fromarray(large), "TIFF", tiffinfo={339: 1}), shown, 0)


def transparent() -> Iterator[Kind]:
    """Cut-outs whose hidden colors are noise."""
    pixels, inside = chart(), np.zeros((64, 96), bool)
    inside[16:48, 24:72] = True
    shown = np.where(inside[..., None], pixels, 255).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    cut = Image.fromarray(np.dstack([np.where(inside[..., None], pixels, noise), alpha]))
    yield Kind("RGBA, PNG", saved(cut, "PNG"), shown, 0)
    yield Kind("RGBA, TIFF", saved(cut, "TIFF"), shown, 0)
    yield Kind("RGBA, WebP", saved(cut, "WEBP", lossless=True, exact=True), shown, 0)
    yield Kind("RGBA, AVIF", saved(cut, "AVIF", quality=100, subsampling="4:4:4"), shown, 12)
    half = Image.fromarray(np.dstack([pixels, np.full_like(alpha, 128)]))
    yield Kind("half transparent", saved(half, "PNG"), np.rint(pixels * (128 / 255) + 127).astype(np.uint8), 1)
    icc, name = profiles.rgb_profile("Display P3"), "Display P3"
    yield Kind(
        "RGBA, Display P3",
        saved(cut, "PNG", icc_profile=icc),
        np.where(inside[..., None], profiles.from_rgb(pixels, name), 255).astype(np.uint8),
        2,
    )
    gray = Image.fromarray(np.dstack([noise[..., 0] * ~inside, alpha]), "LA")
    ink = np.where(inside[..., None], 0, 255).repeat(3, 2).astype(np.uint8)
    yield Kind("gray with transparency", saved(gray, "PNG"), ink, 0)
    palette = Image.new("P", (96, 64))
    palette.putpalette([0, 0, 0, 200, 30, 30])
    palette.putdata(inside.astype(int).ravel().tolist())
    red = np.where(inside[..., None], (200, 30, 30), 255).astype(np.uint8)
    for format in ("PNG", "GIF"):
        yield Kind(f"palette with a transparent color, {format}", saved(palette, format, transparency=0), red, 0)
    keyed = Image.fromarray(np.where(inside[..., None], (200, 30, 30), 0).astype(np.uint8))
    yield Kind("RGB with a transparent color", saved(keyed, "PNG", transparency=(0, 0, 0)), red, 0)


def turned() -> Iterator[Kind]:
    """One asymmetric picture in the eight orientations."""
    pixels = chart()
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    for orientation, inverse in back.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        lying = upright(Image.fromarray(pixels), inverse)
        yield Kind(f"orientation {orientation}, JPEG", saved(lying, "JPEG", exif=exif, quality=100, subsampling=0), pixels, 4)
        yield Kind(f"orientation {orientation}, TIFF", saved(lying, "TIFF", tiffinfo={ORIENTATION: orientation}), pixels, 0)
        if orientation == 6:
            yield Kind("orientation 6, PNG", saved(lying, "PNG", exif=exif), pixels, 0)
            yield Kind("orientation 6, AVIF", saved(lying, "AVIF", exif=exif, quality=100, subsampling="4:4:4"), pixels, 5)
