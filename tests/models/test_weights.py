"""Weights that fit, weights that do not, and files that are none."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from largescale.models.build import build_network, load_network
from largescale.models.config import ModelConfig
from largescale.models.weights import load_weights, save_weights
from largescale.settings import UserError


def _config(weights: Path | str, **settings: Any) -> ModelConfig:
    return ModelConfig(backbone="squeezenet1_1", weights=str(weights), **settings)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet.pth")
    return tmp_path / "squeezenet.pth"


@pytest.mark.slow
def test_published_weights_without_their_classifier(published: Path) -> None:
    state = torch.load(published)
    save_file(state, published.with_suffix(".safetensors"))
    for path in (published, published.with_suffix(".safetensors")):
        net = build_network(_config(path))
        assert net.backbone.features[0].weight.equal(state["features.0.weight"])


@pytest.mark.slow
def test_faults_are_listed(published: Path) -> None:
    state = torch.load(published)
    del state["features.0.bias"]
    state["features.0.weight"] = state["features.0.weight"][:5]
    state["extra"] = torch.zeros(1)
    torch.save(state, published)
    with pytest.raises(UserError) as error:
        build_network(_config(published))
    report = str(error.value)
    assert "1 missing: features.0.bias" in report
    assert "1 unexpected: extra" in report
    assert "1 of another shape: features.0.weight: expected (64, 3, 3, 3), found (5, 3, 3, 3)" in report


def test_real_weights(shared_data: Path) -> None:
    squeezenet = build_network(_config(shared_data / "weights" / "squeezenet1_1_features_imagenet.pth"))
    assert squeezenet.backbone.features[0].weight.std() > 0.1
    file = shared_data / "weights" / "mobilenet_v2_imagenet_dequant.pth"
    assert build_network(ModelConfig(backbone="mobilenet_v2", weights=str(file))).dim == 1280


@pytest.mark.slow
def test_downloaded_weights(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through torchvision's own cache, and without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"could not be downloaded.*model\.weights"):
        build_network(_config("imagenet"))
    cache = tmp_path / "hub" / "checkpoints"
    published.rename(cache / "squeezenet1_1-b8a52dc0.pth")
    net = build_network(_config("imagenet"))
    assert net.backbone.features[0].weight.equal(torch.load(cache / "squeezenet1_1-b8a52dc0.pth")["features.0.weight"])


class _Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.slow
def test_files_that_are_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Code()}, "code.pth")
    torch.save({"epoch": 3, "state_dict": {}}, "wrapped.pth")
    Path("empty.pth").touch()
    Path("text.safetensors").write_text("no")
    save_file({"x": torch.zeros(2)}, "other.safetensors")
    faults = {
        "code.pth": "cannot be read",
        "wrapped.pth": "found epoch, state_dict",
        "empty.pth": "cannot be read",
        "absent.pth": "no file absent.pth",
        "absent.safetensors": "no weights file",
        "text.safetensors": "cut off",
        "other.safetensors": "does not fit",
    }
    for name, message in faults.items():
        with pytest.raises(UserError, match=message):
            build_network(_config(name))
    assert not Path("executed").exists()
    with pytest.raises(UserError, match="no weights file of a run"):
        load_weights(Path("other.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [True, False])
def test_interchange_file(tmp_path: Path, channels_last: bool) -> None:
    torch.manual_seed(0)
    config = _config("none", projection=16, channels_last=channels_last)
    net, path = build_network(config).eval(), tmp_path / "weights" / "step-7.safetensors"
    save_weights(net, path, {"step": 7, "corpus": "abc"})
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    images = net.contract.normalize(torch.randint(256, (2, 3, 64, 80), dtype=torch.uint8))
    again, metadata = load_network(path)
    assert (again.config, metadata) == (net.config, {"step": 7, "corpus": "abc"})
    with torch.no_grad():
        assert again.eval()(images).equal(net(images))
        assert build_network(_config(path, projection=16)).eval()(images).allclose(net(images), atol=1e-6)
    with pytest.raises(UserError, match="2 of another shape: projection"):
        build_network(_config(path, projection=8))


@pytest.mark.slow
def test_another_state_under_the_same_names(tmp_path: Path) -> None:
    net = build_network(_config("none"))
    average = {name: x * 0.5 for name, x in net.state_dict().items()}
    save_weights(net, tmp_path / "average.safetensors", {}, average)
    again, _ = load_network(tmp_path / "average.safetensors")
    assert again.pool.p.item() == 1.5
