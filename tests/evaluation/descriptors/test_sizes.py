"""Images and boxes that are too small for the network are named before anything is embedded."""

from pathlib import Path

import pytest
import torch

from largescale.distributed import World
from largescale.evaluation import evaluate
from largescale.models.sizes import least_side
from largescale.models.transform.multiscale import resize
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.evaluation.small import LANDMARKS, make_landmarks, settings, tiny_network


@pytest.mark.slow
def test_a_box_that_is_too_small_at_half_scale(tmp_path: Path, world: World) -> None:
    queries = [{**LANDMARKS[0], "box": [8, 4, 30, 25]}, LANDMARKS[1]]
    folder = make_landmarks(tmp_path / "landmarks", queries=queries)
    with pytest.raises(UserError) as error:
        evaluate(tiny_network(), settings(tmp_path / "multi", gallery=str(folder), scales="multi"), world)
    assert "no score: 1 images of landmarks are too small for squeezenet1_1 at that scale" in str(error.value)
    assert "\n  000000, its box of 22 x 21 pixels: 11 x 10 at scale 0.5" in str(error.value)
    assert not list(tmp_path.glob("multi/**/*.npy"))
    for name, values in {"single": {"scales": "single"}, "whole": {"scales": "multi", "crop": False}}.items():
        (result,) = evaluate(tiny_network(), settings(tmp_path / name, gallery=str(folder), **values), world).protocols
        assert result.queries == 2


@pytest.mark.slow
def test_images_of_a_gallery(tmp_path: Path, world: World) -> None:
    """They are stretched to what the network bears at scale 1; at half that scale nothing is left of them."""
    gallery = str(make_corpus(tmp_path / "tiny", labels=2, per_label=12, size=12))
    with pytest.raises(UserError, match="24 images of tiny are too small") as error:
        evaluate(tiny_network(), settings(tmp_path / "multi", gallery=gallery, scales="multi"), world)
    assert "000019, its 12 x 9 pixels: 8 x 8 at scale 0.5\n  and 4 more" in str(error.value)
    (result, *_) = evaluate(tiny_network(), settings(tmp_path / "single", gallery=gallery), world).protocols
    assert result.queries == 24


def test_the_least_side_is_the_least_that_runs() -> None:
    network = tiny_network().eval()
    least = least_side(network, range(1, 64))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, least, 40)).shape == network(torch.zeros(1, 3, 40, least)).shape == (1, 24)
        for shape in ((least - 1, 40), (40, least - 1)):
            with pytest.raises(RuntimeError):
                network(torch.zeros(1, 3, *shape))
        half = resize(torch.zeros(1, 3, 2 * least + 1, 2 * least - 1), 0.5)  # rounded down
    assert half.shape == (1, 3, least, least - 1)
