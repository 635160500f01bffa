"""What other runtimes compute, on pictures of several sizes; ONNX is in tests/search/test_ways.py."""

from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.describing.config import Runtime
from largescale.describing.export import Standalone, export
from largescale.models.build import build_network
from largescale.models.config import ModelConfig, Pooling
from largescale.models.sharing.folder import Contents, DescriptorConfig
from largescale.models.whitening import PCAWhitening
from largescale.settings import UserError
from tests.corpora import photograph
from tests.evaluation.small import tiny_network

PICTURES = [photograph(number, 0, *size) for number, size in enumerate([(140, 100), (100, 140), (97, 131)])]


def made(*scales: float) -> Contents:
    """Whitened and cut."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="timm:test_resnet", weights="none", projection=24)).eval()
    whitening = PCAWhitening.fit(np.random.default_rng(0).normal(size=(100, 24)).astype(np.float32))
    return Contents(network, DescriptorConfig(size=140, scales=scales, whitening="pca", dim=16), whitening)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("kind", "scales"), [("program", (1.0,)), ("torchscript", (1.0, 0.5))])
def test_an_export_computes_what_the_network_computes(tmp_path: Path, kind: Runtime, scales: tuple[float, ...]) -> None:
    torch.set_num_threads(1)
    found = export(made(*scales), kind, tmp_path, PICTURES)
    assert found.difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == [found.file.name]
    assert 0 < found.seconds < 10


def pooled(pooling: Pooling) -> Contents:
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="timm:test_resnet", weights="none", pooling=pooling)).eval()
    return Contents(network, DescriptorConfig(size=140, dim=network.dim))


@pytest.mark.slow
def test_onnx_computes_maxima_at_every_size(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert export(pooled("mac"), "onnx", tmp_path, PICTURES).difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "program", "torchscript"])
def test_regions_are_not_exported(tmp_path: Path, kind: Runtime) -> None:
    """They follow from the size of a picture."""
    with pytest.raises(UserError, match="regions of rmac follow from the size of a picture"):
        export(pooled("rmac"), kind, tmp_path, PICTURES)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_networks_of_one_size_are_not_exported(tmp_path: Path) -> None:
    network = build_network(ModelConfig(backbone="timm:test_vit_relpos")).eval()
    with pytest.raises(UserError, match="bears pictures of 160 x 160 pixels and no others, and an exported file is for"):
        export(Contents(network, DescriptorConfig(size=160, dim=network.dim)), "onnx", tmp_path, PICTURES)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cut_is_inside() -> None:
    network = tiny_network().eval()
    cut = Standalone(Contents(network, DescriptorConfig(size=64, dim=8)))
    images = torch.from_numpy(PICTURES[0]).permute(2, 0, 1)[None]
    with torch.inference_mode():
        whole = Standalone(Contents(network, DescriptorConfig(size=64, dim=24)))(images)[:, :8]
        torch.testing.assert_close(cut(images), whole / whole.norm(dim=1, keepdim=True))


@pytest.mark.slow
def test_what_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("largescale.describing.export.TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"differs from the network by .* it was not kept"):
        export(made(1.0), "torchscript", tmp_path, PICTURES)
    assert not list(tmp_path.iterdir())
