import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from largescale.corpus.config import AugmentConfig, ImagesConfig
from largescale.corpus.decoding.pixels import BadImageError
from largescale.corpus.images import Region, decode_into, random_crop, random_draws, target_shape, target_shapes
from tests.corpora import encode, photograph

PIXELS = photograph(0, 0, 160, 120)
JPEG = encode(PIXELS)


def decode(
    data: bytes,
    config: ImagesConfig,
    stored: tuple[int, int] = (160, 120),
    box: Region | None = None,
    draws: np.ndarray | None = None,
) -> np.ndarray:
    boxes = None if box is None else np.array([box])
    shape = target_shapes(np.array([stored[0]]), np.array([stored[1]]), config, boxes)[0]
    out = np.full((*shape, 3), 7, np.uint8)
    decode_into(out, data, config, stored, box, draws)
    return out


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


class TestShapes:
    @pytest.mark.parametrize(
        ("width", "height", "shape"),
        [(1000, 500, (100, 200)), (500, 1000, (200, 100)), (333, 1000, (200, 67)), (150, 90, (90, 150)), (5000, 3, (1, 200))],
    )
    def test_inside_keeps_the_aspect_and_never_enlarges(self, width: int, height: int, shape: tuple[int, int]) -> None:
        assert target_shape(width, height, ImagesConfig(size=200)) == shape

    def test_squash_and_crops_are_square(self) -> None:
        assert target_shape(1000, 500, ImagesConfig(size=64, fit="squash")) == (64, 64)
        assert target_shape(1000, 500, ImagesConfig(size=64, augment=AugmentConfig(crop_scale=(0.4, 1)))) == (64, 64)

    def test_a_box_is_scaled_as_its_whole_image(self) -> None:
        """cirtorch scales a crop to imsize * max(crop) / max(image)."""
        shapes = target_shapes(np.array([1024]), np.array([768]), ImagesConfig(size=512), np.array([[100, 50, 500, 250]]))
        assert shapes.tolist() == [[100, 200]]


class TestPixels:
    def test_equal_to_libjpeg_turbo_where_nothing_is_scaled(self) -> None:
        assert np.array_equal(decode(JPEG, ImagesConfig(size=160)), simplejpeg.decode_jpeg(JPEG))

    def test_scaled_as_pillow_scales(self) -> None:
        expected = Image.fromarray(simplejpeg.decode_jpeg(JPEG)).resize((100, 75), Image.Resampling.BILINEAR)
        found = decode(JPEG, ImagesConfig(size=100))
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1

    @pytest.mark.slow
    def test_decoding_at_a_smaller_size_changes_little(self) -> None:
        large = encode(photograph(0, 0, 800, 600))
        found = decode(large, ImagesConfig(size=100), (800, 600))
        expected = Image.fromarray(simplejpeg.decode_jpeg(large)).resize((100, 75), Image.Resampling.BILINEAR)
        assert distance(found, np.asarray(expected)) < 2

    def test_a_box_is_cut_out_before_scaling(self) -> None:
        found = decode(JPEG, ImagesConfig(size=100), box=(40, 20, 120, 84))
        cut = Image.fromarray(simplejpeg.decode_jpeg(JPEG)).crop((40, 20, 120, 84)).resize((50, 40), Image.Resampling.BILINEAR)
        assert found.shape == (40, 50, 3)
        assert np.abs(found.astype(int) - np.asarray(cut)).max() <= 1


class TestAugmentation:
    config = ImagesConfig(size=64, augment=AugmentConfig(crop_scale=(0.2, 0.9)))

    def test_depends_on_the_random_state_only(self) -> None:
        first, again, other = (decode(JPEG, self.config, draws=random_draws(1, 2, np.array([i]))[0]) for i in (3, 3, 4))
        assert np.array_equal(first, again)
        assert distance(first, other) > 1

    def test_draws_are_uniform_and_an_images_own(self) -> None:
        draws = random_draws(1, 2, np.arange(20_000))
        assert draws.min() >= 0
        assert draws.max() < 1
        assert np.allclose(draws.mean(axis=0), 0.5, atol=0.01)
        assert np.allclose(draws.var(axis=0), 1 / 12, atol=0.003)
        assert np.abs(np.corrcoef(draws.T) - np.eye(41)).max() < 0.035  # 20,000 numbers: five standard deviations
        assert np.array_equal(random_draws(1, 2, np.array([7, 5])), draws[[7, 5]])
        for seed, epoch in ((2, 2), (1, 3), (2, 1)):
            assert abs(np.corrcoef(random_draws(seed, epoch, np.arange(20_000))[:, 0], draws[:, 0])[0, 1]) < 0.035

    def test_flips_as_often_as_asked(self) -> None:
        config = ImagesConfig(size=160, augment=AugmentConfig(flip=0.3))
        plain = simplejpeg.decode_jpeg(JPEG)
        found = [decode(JPEG, config, draws=draws) for draws in random_draws(0, 0, np.arange(200))]
        flipped = [np.array_equal(pixels, plain[:, ::-1]) for pixels in found]
        assert all(np.array_equal(pixels, plain) for pixels, flip in zip(found, flipped, strict=True) if not flip)
        assert 0.2 < np.mean(flipped) < 0.4

    def test_crops_have_the_areas_and_ratios_asked_for(self) -> None:
        augment = AugmentConfig(crop_scale=(0.2, 0.9), crop_ratio=(0.5, 2))
        crops = np.array([random_crop((400, 300), augment, draws[:40]) for draws in random_draws(0, 0, np.arange(2000))])
        width, height = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
        assert crops.min() >= 0
        assert (crops[:, 2:] <= [400, 300]).all()
        area, ratio = width * height / 120_000, width / height
        assert 0.19 < area.min() < area.max() < 0.91
        assert 0.49 < ratio.min() < ratio.max() < 2.05
        assert abs(area.mean() - 0.47) < 0.02  # a little below 0.55: large wide crops do not fit and are drawn again
        assert min(len(np.unique(crops[:, 0])), len(np.unique(crops[:, 1]))) > 100

    def test_a_crop_that_cannot_fit_is_central(self) -> None:
        augment = AugmentConfig(crop_scale=(0.9, 1), crop_ratio=(0.75, 4 / 3))
        assert random_crop((1000, 100), augment, np.zeros(40)) == (433, 0, 566, 100)

    def test_a_crop_shows_the_region(self) -> None:
        draws = random_draws(0, 0, np.array([5]))[0]
        x0, y0, x1, y1 = random_crop((160, 120), self.config.augment or AugmentConfig(), draws[:40])
        found = decode(JPEG, self.config, draws=draws)
        crop = Image.fromarray(simplejpeg.decode_jpeg(JPEG)).crop((x0, y0, x1, y1)).resize((64, 64), Image.Resampling.BILINEAR)
        assert min(distance(found, np.asarray(crop)), distance(found[:, ::-1], np.asarray(crop))) < 0.5


class TestFormats:
    @pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})])
    def test_other_formats(self, format: str, options: dict[str, bool]) -> None:
        assert np.array_equal(decode(saved(Image.fromarray(PIXELS), format, **options), ImagesConfig(size=160)), PIXELS)

    def test_grey_and_cmyk_jpegs(self) -> None:
        image = Image.fromarray(PIXELS)
        gray = decode(saved(image.convert("L"), "JPEG", quality=95), ImagesConfig())
        assert distance(gray, np.asarray(image.convert("L").convert("RGB"))) < 2
        assert distance(decode(saved(image.convert("CMYK"), "JPEG", quality=95), ImagesConfig()), PIXELS) < 4

    def test_sixteen_bits_are_scaled_not_clipped(self) -> None:
        gray = PIXELS[:, :, 0]
        data = saved(Image.fromarray(gray.astype(np.uint16) * 257), "PNG")
        assert np.array_equal(decode(data, ImagesConfig()), np.repeat(gray[:, :, None], 3, axis=2))

    def test_transparency_is_laid_over_white(self) -> None:
        alpha = np.full((120, 160, 1), 255, np.uint8)
        alpha[:, :80] = 0
        found = decode(saved(Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)), "PNG"), ImagesConfig())
        assert (found[:, :80] == 255).all()
        assert np.array_equal(found[:, 80:], PIXELS[:, 80:])

    def test_palettes(self) -> None:
        image = Image.fromarray(PIXELS).convert("P")
        assert np.array_equal(decode(saved(image, "PNG"), ImagesConfig()), np.asarray(image.convert("RGB")))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    place = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:place] + struct.pack(">HH", height, width) + JPEG[place + 4 :]


class TestBadImages:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (JPEG[: len(JPEG) // 2], "truncated"),
            (saved(Image.fromarray(PIXELS), "PNG")[:5000], "truncated|broken"),
            (b"", "no picture of a format that is read: it is empty"),
            (b"\xff\xd8\xffnothing", "no picture of a format that is read: it begins"),
            (encode(PIXELS[:, :150]), "150 x 120 pixels, the manifest says 160 x 120"),
            (jpeg_header(30_000, 20_000), "30000 x 20000 pixels, the manifest says 160 x 120"),
            (png_header(12_000, 10_000), "12000 x 10000 pixels, the manifest says"),
            (png_header(60_000, 60_000), "exceeds limit"),
        ],
        ids=["cut jpeg", "cut png", "empty", "no image", "other size", "large jpeg", "large png", "huge png"],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_says_why(self, data: bytes, message: str) -> None:
        with pytest.raises(BadImageError, match=message):
            decode(data, ImagesConfig())

    @pytest.mark.slow
    def test_absurdly_large(self) -> None:
        with pytest.raises(BadImageError, match=r"12000 x 10000 pixels are more than images.max_megapixels=100"):
            decode(png_header(12_000, 10_000), ImagesConfig(), (12_000, 10_000))

    def test_harmless_faults_are_accepted(self) -> None:
        """libjpeg-turbo warns of stray bytes before a marker; the picture is there."""
        stray = JPEG[:-2] + b"\x00\x01\x02" + JPEG[-2:]
        with pytest.raises(ValueError, match="extraneous bytes"):
            simplejpeg.decode_jpeg(stray)
        assert np.array_equal(decode(stray, ImagesConfig(size=160)), simplejpeg.decode_jpeg(JPEG))
