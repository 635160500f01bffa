"""Whichever way a photograph takes to its descriptor, and a search to its answer, it is the same."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.models.whitening import PCAWhitening
from tests.evaluation.small import alone
from tests.search.photos import make_photos
from tests.search.ways import differences, right_by_evaluation, right_by_server, rows_by_way

ROUNDING, OTHER_RUNTIME = 1e-6, 1e-4


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


@pytest.fixture(scope="module")
def photos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of groceries where they are: every third of those of the first folders."""
    folder = tmp_path_factory.mktemp("photos")
    try:
        data: Path = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        return make_photos(folder)
    with tarfile.open(data / "grocery192.tar") as tar:
        members = [member for member in tar if member.name.endswith(".jpg")][:150:3]
        for member in members:
            path = folder / Path(member.name).parent.name / Path(member.name).name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="timm:test_resnet", weights="none", projection=24)).eval()
    whitening = PCAWhitening.fit(np.random.default_rng(0).normal(size=(100, 24)).astype(np.float32))
    settings = DescriptorConfig(size=96, whitening="pca", dim=16, precision="fp32")
    write_folder(folder, Contents(network, settings, whitening), "")
    return folder


@pytest.mark.slow
def test_descriptors_of_shards_a_folder_python_and_onnx(photos: Path, model: Path, tmp_path: Path, world: World) -> None:
    rows = rows_by_way(model, photos, sorted(photos.glob("*/*.jpg")), tmp_path, world)
    for ways, largest in differences(rows).items():
        assert largest < (OTHER_RUNTIME if "ONNX" in ways else ROUNDING), ways


@pytest.mark.slow
def test_the_server_finds_what_the_evaluation_counts(photos: Path, model: Path, tmp_path: Path, world: World) -> None:
    paths = sorted(photos.glob("*/*.jpg"))
    scored, served = right_by_evaluation(model, paths, tmp_path, world), right_by_server(model, photos, paths, tmp_path)
    assert 0 < scored.mean() <= 1
    np.testing.assert_array_equal(served, scored)
