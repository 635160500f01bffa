"""Encoded bytes -> uint8 pixels: decode, cut, scale, flip, distort. What is random follows from (seed, epoch, image id).

h, w: pixels; arrays of pixels are (h, w, 3) RGB. Scaling is with antialiasing, equal to torchvision's.
JPEGs are decoded by libjpeg-turbo; where it is not sure of a file, and for all other formats, by Pillow.
"""

import math
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch

from largescale.corpus.config import AugmentConfig, ImagesConfig
from largescale.corpus.decoding.augment import distort
from largescale.corpus.decoding.pixels import BadImageError, decoding, open_picture, to_rgb

SCALE = {"bilinear": torch.ops.aten._upsample_bilinear2d_aa.out, "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out}
Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ATTEMPTS, DRAWS = 10, 41
"""Attempts at a crop, and the random numbers of an image: four for each attempt, one for the flip."""


def target_shape(width: int, height: int, config: ImagesConfig) -> tuple[int, int]:
    """(h, w) of the tensor that an image of width x height becomes, known without decoding it."""
    h, w = target_shapes(np.array([width]), np.array([height]), config)[0].tolist()
    return h, w


def target_shapes(width: np.ndarray, height: np.ndarray, config: ImagesConfig, boxes: np.ndarray | None = None) -> np.ndarray:
    """`(n, 2)` heights and widths of the tensors that images become.

    Args:
        boxes: `(n, 4)` regions in stored pixels that are cut out first. A cut is scaled as its whole image would be, so that
            objects keep their scale (as cirtorch does with query boxes).
    """
    if config.fit not in (None, "inside") or (config.augment and config.augment.crop_scale):
        return np.full((len(width), 2), config.size)
    longest = np.maximum(width, height)
    scale = np.minimum(1, (config.size or longest) / longest)
    if boxes is not None:
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    steps = np.maximum(1, np.rint(np.stack([height * scale, width * scale], axis=1) / config.multiple))
    return np.maximum(config.least, config.multiple * steps).astype(np.int64)


def too_thin(width: np.ndarray, height: np.ndarray, config: ImagesConfig) -> np.ndarray:
    """`(n,)` whether images become so thin or small that a side is stretched to `least`."""
    plain = target_shapes(width, height, config.model_copy(update={"least": 1, "multiple": 1}))
    return plain.min(axis=1) < min(config.least, config.size or config.least) - config.multiple // 2


def decode_into(
    out: np.ndarray,
    data: bytes | Callable[[], np.ndarray],
    config: ImagesConfig,
    stored: tuple[int, int],
    box: Region | None = None,
    draws: np.ndarray | None = None,
) -> None:
    """Decode an image into `out` (h, w, 3), whose shape is the target shape of the image.

    Args:
        data: what a corpus holds, or what gives the pixels of an image from elsewhere, (h, w, 3).
        stored: width and height in the manifest.
        box: region that is cut out first.
        draws: `(41,)` random numbers of the augmentation (see `random_draws`), or None for none.

    Raises:
        BadImageError: undecodable, too large, or not of the size in the manifest.
    """
    if stored[0] * stored[1] > config.max_megapixels * 1e6:
        raise BadImageError(f"{stored[0]} x {stored[1]} pixels are more than images.max_megapixels={config.max_megapixels:g}")
    region, flip = box or (0, 0, *stored), False
    if config.fit in ("crop", "squash_crop"):
        region = center_crop(region, config)
    if config.augment and draws is not None:
        if config.augment.crop_scale:
            region = random_crop(stored, config.augment, draws[:-1])
        flip = draws[-1] < config.augment.flip
    if callable(data):
        scale_into(out, cut(_of_size(data(), stored), region, stored))
    elif region != (0, 0, *stored) or out.shape != (stored[1], stored[0], 3) or not _decode_in_place(out, data):
        _check_size(data, stored)
        least = out.shape[0] / (region[3] - region[1]), out.shape[1] / (region[2] - region[0])
        scale_into(out, cut(_decode(data, stored, least), region, stored), config.interpolation or "bilinear")
    if flip:
        target = _tensor(out)
        target.copy_(target.flip(3))
    if config.augment and draws is not None:
        distort(out, config.augment, draws)


def random_draws(seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """`(n, 41)` numbers in [0, 1) that follow from (seed, epoch, image id) alone: SplitMix64 (Steele 2014), all at once."""
    key = _mix(_mix(np.array([[seed]], np.uint64)) ^ np.uint64(epoch)) ^ ids.astype(np.uint64)[:, None]
    return (_mix(_mix(key) + GOLDEN * np.arange(1, DRAWS + 1, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_crop(stored: tuple[int, int], config: AugmentConfig, draws: np.ndarray) -> Region:
    """The region of torchvision's RandomResizedCrop: up to ten draws of area and ratio, else the largest central crop.

    Args:
        draws: `(40,)` numbers in [0, 1).
    """
    assert config.crop_scale is not None
    width, height = stored
    (small, large), (narrow, wide) = config.crop_scale, config.crop_ratio
    for share, shape, right, down in draws.reshape(ATTEMPTS, 4).tolist():
        area = width * height * (small + share * (large - small))
        ratio = narrow * (wide / narrow) ** shape  # uniform in its logarithm
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(right * (width - w + 1)), int(down * (height - h + 1))
            return x, y, x + w, y + h
    w, h = min(width, max(1, round(height * wide))), min(height, max(1, round(width / narrow)))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def cut(pixels: np.ndarray, region: Region, stored: tuple[int, int]) -> np.ndarray:
    """A region given in stored pixels, of an image that may have been decoded at a smaller size."""
    across, down = pixels.shape[1] / stored[0], pixels.shape[0] / stored[1]
    x0, y0 = math.floor(region[0] * across), math.floor(region[1] * down)
    return pixels[y0 : max(y0 + 1, round(region[3] * down)), x0 : max(x0 + 1, round(region[2] * across))]


def center_crop(region: Region, config: ImagesConfig) -> Region:
    """What a center crop keeps of a region: a square, or of squash_crop both sides alike."""
    x0, y0, x1, y1 = region
    sides = (x1 - x0, y1 - y0) if config.fit == "squash_crop" else (min(x1 - x0, y1 - y0),) * 2
    width, height = (max(1, round((config.crop_share or 1) * side)) for side in sides)
    x, y = round((x0 + x1 - width) / 2), round((y0 + y1 - height) / 2)
    return x, y, x + width, y + height


def scale_into(out: np.ndarray, pixels: np.ndarray, interpolation: str = "bilinear") -> None:
    """Scale `pixels` to the size of `out`; one pass, no copy of the result."""
    if pixels.shape == out.shape:
        out[:] = pixels
    else:
        SCALE[interpolation](_tensor(pixels), list(out.shape[:2]), False, None, None, out=_tensor(out))


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    """(h, w, 3) -> (1, 3, h, w), the same memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def decode_other(data: bytes) -> np.ndarray:
    """Decode with Pillow, which tells harmless faults from fatal ones and names these. Stored images are upright."""
    with decoding():
        return np.array(to_rgb(open_picture(data)))


def _of_size(pixels: np.ndarray, stored: tuple[int, int]) -> np.ndarray:
    if pixels.shape[1::-1] != stored:
        raise BadImageError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels, it was {stored[0]} x {stored[1]} when it was listed")
    return pixels


def _check_size(data: bytes, stored: tuple[int, int]) -> None:
    """Refuse, from its header and before it is decoded, what is not of the size in the manifest."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        width, height = open_picture(data).size
    if (width, height) != stored:
        raise BadImageError(f"{width} x {height} pixels, the manifest says {stored[0]} x {stored[1]}")


def _decode_in_place(out: np.ndarray, data: bytes) -> bool:
    """Whether it was a faultless JPEG of exactly this size; a larger one is refused from its header."""
    try:
        return simplejpeg.decode_jpeg(data, buffer=out).shape == out.shape
    except ValueError:
        return False


def _decode(data: bytes, stored: tuple[int, int], least: tuple[float, float]) -> np.ndarray:
    """Decode, a JPEG at 1/2 or less if the result still has `least` (down, across) of the stored pixels."""
    reduction = {}
    if max(least) <= 0.5:
        reduction = {"min_height": math.ceil(least[0] * stored[1]), "min_width": math.ceil(least[1] * stored[0]), "min_factor": 2}
    try:
        return simplejpeg.decode_jpeg(data, **reduction)
    except ValueError:  # no JPEG, or one with a fault: libjpeg-turbo warns of harmless ones as of fatal ones
        return decode_other(data)
