import numpy as np
import pytest
import torch

from largescale.corpus.config import AugmentConfig, ImagesConfig
from largescale.corpus.decoding.augment import distort
from largescale.corpus.images import decode_into, random_draws
from tests.corpora import encode, photograph

EACH = {
    "rand_augment": (2, 9),
    "jitter": (0.4, 0.4, 0.4, 0.1),
    "grayscale": 1,
    "blur": 1,
    "erasing": 1,
}
PIXELS = photograph(0, 0, 96, 64)


def distorted(config: AugmentConfig, id: int, epoch: int = 0) -> np.ndarray:
    pixels = PIXELS.copy()
    distort(pixels, config, random_draws(0, epoch, np.array([id]))[0])
    return pixels


@pytest.mark.parametrize("name", EACH)
def test_each_changes_the_image_by_its_own_draws(name: str) -> None:
    config = AugmentConfig(**{name: EACH[name]})  # type: ignore[arg-type]
    first = distorted(config, 3)
    assert np.array_equal(first, distorted(config, 3))
    assert not np.array_equal(first, PIXELS)
    if name != "grayscale":
        assert any(not np.array_equal(first, distorted(config, 3, epoch)) for epoch in (1, 2, 3))
    else:
        assert (first == first[..., :1]).all()


@pytest.mark.slow
def test_all_together_follow_the_draws_and_nothing_else() -> None:
    config = AugmentConfig(**EACH | {"grayscale": 0.2, "blur": 0.5, "erasing": 0.5})  # type: ignore[arg-type]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [distorted(config, id) for id in range(8)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = [distorted(config, id) for id in reversed(range(8))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({pixels.tobytes() for pixels in first}) == 8


@pytest.mark.slow
def test_probabilities_are_those_asked_for() -> None:
    config = AugmentConfig(erasing=0.3)
    changed = [not np.array_equal(distorted(config, id), PIXELS) for id in range(300)]
    assert 0.2 < np.mean(changed) < 0.4


def test_distortions_do_not_move_crops_and_flips() -> None:
    """An image is cut and flipped the same whether it is distorted afterwards or not; without draws nothing is changed."""
    data = encode(PIXELS)
    plain = AugmentConfig(crop_scale=(0.3, 1))
    outs = {}
    for name, augment in (("plain", plain), ("gray", plain.model_copy(update={"grayscale": 1.0}))):
        for drawn in (True, False):
            out = np.zeros((48, 48, 3), np.uint8)
            draws = random_draws(0, 0, np.array([5]))[0] if drawn else None
            decode_into(out, data, ImagesConfig(size=48, augment=augment), (96, 64), draws=draws)
            outs[name, drawn] = out
    assert np.array_equal(outs["plain", False], outs["gray", False])
    weights = [0.2989, 0.587, 0.114]
    assert np.abs(outs["gray", True][..., 0] - outs["plain", True] @ weights).max() < 1.5


def test_the_smallest_images_bear_all_of_them() -> None:
    config = AugmentConfig(**EACH)  # type: ignore[arg-type]
    for shape in ((1, 1, 3), (2, 40, 3), (4, 4, 3)):
        distort(np.zeros(shape, np.uint8), config, random_draws(0, 0, np.array([1]))[0])
