"""A projection that begins as a whitening of what it projects."""

from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.config import check
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.models.build import build_network
from largescale.models.whitening import LearnedWhitening, PCAWhitening
from largescale.settings import UserError
from largescale.training.planning.first_projection import _describe, start_projection
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus
from tests.world import run_world


def _config(start: str, projection: int = 8) -> TrainConfig:
    model = {"backbone": "timm:test_resnet.r160_in1k", "projection": projection, "projection_start": start}
    return check(TrainConfig, {"model": model, "images": {"size": 32}, "loader": {"workers": 0}})


def _started(world: World, folder: Path, start: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descriptors before the projection and after, and the signs that the fitted whitening gives to them."""
    config, corpus = _config(start), Corpus.open(str(folder))
    torch.manual_seed(0)
    network = build_network(config.model)
    random = network.projection.weight.clone()
    start_projection(network, config, corpus, world)
    assert not torch.equal(network.projection.weight, random)
    ids, before = _describe(network, config, corpus, world)
    assert ids.tolist() == list(range(240))
    after = torch.nn.functional.normalize(network.projection(torch.from_numpy(before))).detach().numpy()
    if start == "pca":
        whitening = PCAWhitening.fit(before)
    else:
        whitening = LearnedWhitening.fit(before, *np.array([(i, i + 1) for i in range(239) if (i + 1) % 40]).T)
    return before, after, whitening.apply(before, 8).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("whitening") / "corpus", labels=6, per_label=40, size=32)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("start", ["pca", "learned"])
def test_descriptors_are_whitened_alike_on_every_rank(folder: Path, start: str) -> None:
    (alone,) = run_world(1, _started, folder, start)
    np.testing.assert_allclose(np.abs(alone[1]), np.abs(alone[2]), atol=1e-3)
    for _, after, _ in run_world(2, _started, folder, start):
        np.testing.assert_allclose(np.abs(after), np.abs(alone[1]), atol=1e-3)


def _refused(world: World, folder: Path, start: str, projection: int, message: str) -> None:
    config = _config(start, projection)
    with pytest.raises(UserError, match=message):
        start_projection(build_network(config.model), config, Corpus.open(str(folder)), world)


@pytest.mark.slow
@pytest.mark.distributed
def test_what_cannot_be_whitened(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", labels=2, per_label=4, size=32)
    run_world(1, _refused, folder, "pca", 5000, "a whitening has no more directions")
    run_world(1, _refused, folder, "learned", 8, "6 matching pairs for 96 dimensions")


def test_a_start_needs_a_projection() -> None:
    with pytest.raises(UserError, match="there is no projection; give projection=DIMENSIONS"):
        check(TrainConfig, {"model": {"projection_start": "pca"}})
