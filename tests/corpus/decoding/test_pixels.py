import io

import numpy as np
import pytest
from PIL import Image

from largescale.corpus.decoding.pixels import BadImageError, color_transform, open_picture, rgb_pixels
from largescale.corpus.images import decode_other
from shards.images import Encoding, store
from tests.corpus import profiles
from tests.corpus.sheet import Kind, chart, heic, kinds, saved

KINDS = list(kinds())


def levels(found: np.ndarray, shown: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - shown).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_each_kind_is_read_as_a_viewer_shows_it(kind: Kind) -> None:
    found = rgb_pixels(kind.data)
    assert found.shape == kind.shown.shape
    assert levels(found, kind.shown) <= kind.most


@pytest.mark.parametrize("side", [512, 60])
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_each_kind_is_stored_as_a_viewer_shows_it(kind: Kind, side: int) -> None:
    """Stored whole, and shrunk; what a corpus holds is read the same with and without Pillow's rules."""
    stored = store(kind.data, Encoding(max_side=side, quality=100))
    found = decode_other(stored.data)
    assert (stored.height, stored.width) == found.shape[:2]
    assert open_picture(stored.data).mode in ("RGB", "L")
    expected = Image.fromarray(kind.shown).resize((stored.width, stored.height), Image.Resampling.LANCZOS)
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 4
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(stored.data)).convert("RGB")))


@pytest.mark.slow
def test_heic() -> None:
    pytest.importorskip("pillow_heif")
    kind = heic()
    assert levels(rgb_pixels(kind.data), kind.shown) <= kind.most
    assert store(kind.data, Encoding()).suffix == "jpg"


def test_a_profile_that_changes_nothing_keeps_the_bytes() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert color_transform(srgb, "RGB") is None
    data = saved(Image.fromarray(chart()), "JPEG", icc_profile=srgb)
    assert store(data, Encoding()).data == data
    wide = saved(Image.fromarray(chart()), "JPEG", icc_profile=profiles.rgb_profile("Display P3"))
    assert store(wide, Encoding()).data != wide


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a format that is read: it begins with b'%!PS"),
        (b"", "it is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
        (saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point samples have no stated range"),
        (saved(Image.fromarray(chart()), "PNG")[:900], "truncated|broken"),
    ],
    ids=["postscript", "empty", "vector", "float", "cut"],
)
def test_what_is_no_picture_says_why(data: bytes, message: str) -> None:
    for read in (rgb_pixels, decode_other, lambda data: store(data, Encoding())):
        with pytest.raises(BadImageError, match=message):
            read(data)
