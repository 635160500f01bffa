import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from largescale.corpus.decoding.pixels import ORIENTATION, BadImageError
from shards.images import Encoding, store, stored_box
from tests.corpora import encode, photograph

ENCODING = Encoding(max_side=64, quality=90)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def oriented(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(image, "JPEG", quality=95, exif=exif)


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(10 * np.log10(255**2 / np.mean(error**2)))


@pytest.mark.parametrize(
    ("format", "mode", "suffix"), [("JPEG", "RGB", "jpg"), ("JPEG", "L", "jpg"), ("PNG", "RGB", "png"), ("PNG", "L", "png")]
)
def test_bytes_are_kept_when_nothing_has_to_change(format: str, mode: str, suffix: str) -> None:
    data = saved(Image.fromarray(photograph(1, 0, 64, 48)).convert(mode), format)
    assert store(data, ENCODING) == (data, suffix, 64, 48)
    assert store(data, Encoding(max_side=0)) == (data, suffix, 64, 48)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(200, 100), (100, 200), (65, 10), (3000, 2000), (5000, 2)])
def test_longest_side_is_bounded_and_aspect_kept(size: tuple[int, int]) -> None:
    stored = store(encode(np.zeros((size[1], size[0], 3), np.uint8)), ENCODING)
    assert max(stored.width, stored.height) == 64
    assert opened(stored.data).size == (stored.width, stored.height)
    scale = 64 / max(size)
    assert abs(stored.width - size[0] * scale) <= 1
    assert abs(stored.height - size[1] * scale) <= 1
    assert store(encode(np.zeros((size[1], size[0], 3), np.uint8)), Encoding(max_side=0)).width == size[0]


def textured(width: int, height: int) -> np.ndarray:
    """`(height, width, 3)` uint8 with detail down to a few pixels."""
    noise = np.random.default_rng(3).integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1024, 768), (1000, 750), (1999, 1501)])
def test_scaling_in_the_decoder_costs_no_quality(size: tuple[int, int]) -> None:
    data = encode(textured(*size))
    assert opened(data).size == size
    stored = opened(store(data, Encoding(max_side=200, quality=100)).data)
    whole = opened(data).resize(stored.size, Image.Resampling.LANCZOS)
    assert psnr(stored, opened(saved(whole, "JPEG", quality=100))) > 42


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_boxes_follow(orientation: int) -> None:
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[30:60, 100:150] = 255
    data = oriented(Image.fromarray(pixels), orientation)
    stored = store(data, Encoding(max_side=80, quality=95))
    upright = ImageOps.exif_transpose(opened(data)).reduce(2)
    assert (stored.width, stored.height) == upright.size
    assert opened(stored.data).getexif().get(ORIENTATION, 1) == 1
    assert psnr(opened(stored.data), upright) > 25
    bright = np.argwhere(np.asarray(upright.convert("L")) > 128)
    (top, left), (bottom, right) = bright.min(0), bright.max(0) + 1
    box = stored_box([100, 30, 150, 60], data, stored.width, stored.height)
    np.testing.assert_allclose(box, [left, top, right, bottom], atol=0.01)


def test_boxes_end_at_the_boundary_of_the_image() -> None:
    assert stored_box([-4.0, 10.0, 170.0, 60.0], encode(np.zeros((120, 160, 3), np.uint8)), 80, 60) == [0.0, 5.0, 80.0, 30.0]
    with pytest.raises(BadImageError, match="its box 100, 100, 200, 200 lies outside of its 40 x 30 pixels"):
        stored_box([100, 100, 200, 200], encode(np.zeros((30, 40, 3), np.uint8)), 40, 30)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("RGB", "WEBP"), ("P", "GIF"), ("1", "PNG")],
)
def test_other_forms_become_rgb_jpeg(mode: str, format: str) -> None:
    image = Image.fromarray(photograph(2, 0, 60, 40)).convert("RGB")
    stored = store(saved(image.convert(mode), format), ENCODING)
    assert (opened(stored.data).format, opened(stored.data).mode, stored.suffix) == ("JPEG", "RGB", "jpg")
    assert (stored.width, stored.height) == (60, 40)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, 60).astype(np.uint16), (40, 1))
    stored = np.asarray(opened(store(saved(Image.fromarray(ramp), "PNG"), ENCODING).data).convert("L"), dtype=int)
    assert abs(stored - ramp // 256).max() < 8


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"<html>404</html>", lambda d: d[:200]])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("side", [60, 600])
def test_damage_is_found_in_kept_and_in_shrunk_images(damage, format: str, side: int) -> None:
    data = encode(textured(side, side), format)
    with pytest.raises(BadImageError):
        store(damage(data), ENCODING)


def test_the_same_image_gives_the_same_bytes() -> None:
    data = encode(textured(300, 200))
    assert store(data, ENCODING) == store(data, ENCODING)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03" * 9]
)
def test_broken_metadata_does_not_make_an_image_bad(exif: bytes) -> None:
    image = Image.fromarray(photograph(1, 0, 64, 48))
    assert store(saved(image, "JPEG", exif=exif), ENCODING).width == 64
    assert store(saved(image, "JPEG", exif=exif), Encoding(max_side=32)).width == 32
