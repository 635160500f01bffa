"""Checkpoints as their authors write them, against what their authors' networks compute."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d
from torchvision.models import resnet18

from largescale.models.sharing.released import read_released
from largescale.settings import UserError

IMAGES = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x.norm(dim=1, keepdim=True) + 1e-6)


def gem(x: torch.Tensor, p: float) -> torch.Tensor:
    """As both projects write it."""
    return avg_pool2d(x.clamp(min=1e-6).pow(p), (x.size(-2), x.size(-1))).pow(1 / p).flatten(1)


@pytest.fixture(scope="module")
def body() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(weights=None).eval()


def cirtorch(body: nn.Module, whiten: nn.Linear | None, **meta: Any) -> dict[str, Any]:
    features = nn.Sequential(*list(body.children())[:-2])
    state = {f"features.{name}": x for name, x in features.state_dict().items()} | {"pool.p": torch.tensor([2.7])}
    if whiten is not None:
        state |= {f"whiten.{name}": x for name, x in whiten.state_dict().items()}
    usual = {"architecture": "resnet18", "pooling": "gem", "local_whitening": False, "regional": False}
    usual |= {"whitening": whiten is not None, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "outputdim": 512}
    return {"meta": {**usual, **meta}, "state_dict": state}


@pytest.mark.slow
def test_cirtorch_with_its_whitenings(tmp_path: Path, body: nn.Module) -> None:
    random, whiten = np.random.default_rng(0), nn.Linear(512, 64)
    ms, ss = ({"m": random.normal(size=(64, 1)), "P": random.normal(size=(64, 64))} for _ in range(2))
    torch.save(cirtorch(body, whiten, Lw={"retrieval-SfM-120k": {"ss": ss, "ms": ms}}), tmp_path / "gem.pth")
    with torch.no_grad():
        expected = unit(whiten(unit(gem(nn.Sequential(*list(body.children())[:-2])(IMAGES), 2.7))))
        for multiscale, lw in ((False, ss), (True, ms)):
            contents = read_released(tmp_path / "gem.pth", multiscale)
            found = contents.network(IMAGES)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            whitened = (expected.double().numpy() - lw["m"].T) @ lw["P"].T  # whitenapply, on columns
            whitened /= np.linalg.norm(whitened, axis=1, keepdims=True) + 1e-6
            np.testing.assert_allclose(contents.transform([found.numpy()]), whitened, atol=1e-4)
    assert contents.network.contract.mean == (0.4, 0.4, 0.4)
    assert contents.settings.scales == (1.0, 2**-0.5, 0.5)


@pytest.mark.slow
def test_cirtorch_without_whitening_merges_scales_by_its_exponent(tmp_path: Path, body: nn.Module) -> None:
    torch.save(cirtorch(body, None), tmp_path / "gem.pth")
    contents = read_released(tmp_path / "gem.pth", multiscale=True)
    assert contents.whitening is None
    assert contents.settings.exponent == pytest.approx(2.7)


@pytest.mark.slow
@pytest.mark.parametrize("norm_features", [False, True])
def test_dirtorch_with_its_principal_components(tmp_path: Path, body: nn.Module, norm_features: bool) -> None:
    from sklearn.decomposition import PCA  # seconds

    fc, random = nn.Linear(512, 32), np.random.default_rng(0)
    pca = PCA(whiten=True).fit(random.normal(size=(100, 32)) * np.linspace(1, 3, 32))
    state = {f"module.{name}": x for name, x in body.state_dict().items() if not name.startswith("fc.")}
    state |= {"module.adpool.p": torch.tensor([3.1]), "module.fc.weight": fc.weight, "module.fc.bias": fc.bias}
    options = {"arch": "resnet18_rmac", "out_dim": 32, "pooling": "gem", "gemp": 3, "norm_features": norm_features}
    torch.save({"model_options": options, "state_dict": state, "pca": {"Landmarks_clean": pca}}, tmp_path / "ap-gem.pt")
    contents = read_released(tmp_path / "ap-gem.pt")
    with torch.no_grad():
        pooled = gem(nn.Sequential(*list(body.children())[:-2])(IMAGES), 3.1)
        expected = unit(fc(unit(pooled) if norm_features else pooled))
        found = contents.network(IMAGES)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    whitened = (expected.double().numpy() - pca.mean_) @ pca.components_.T / pca.explained_variance_**0.25  # whiten_features
    whitened /= np.linalg.norm(whitened, axis=1, keepdims=True)
    np.testing.assert_allclose(contents.transform([found.numpy()]), whitened, atol=1e-4)


class Attack:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.victim),)


@pytest.mark.slow
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, body: nn.Module) -> None:
    for number, save in enumerate((torch.save, lambda value, path: path.write_bytes(pickle.dumps(value)))):
        save(cirtorch(body, None, Lw=Attack(tmp_path / "victim")), tmp_path / f"{number}.pth")  # type: ignore[operator]
        with pytest.raises(UserError, match="cannot be read as a file of tensors and plain values") as error:
            read_released(tmp_path / f"{number}.pth")
        assert "weights_only" not in str(error.value)
        assert "add_safe_globals" not in str(error.value)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"weight": torch.zeros(1)}, "does not say of which network: give model.backbone=NAME"),
        ({"epoch": 3}, "is no checkpoint that is known (it holds epoch)"),
        ({"meta": {"architecture": "resnet33"}, "state_dict": {}}, "is of the backbone 'resnet33'"),
        ([1, 2], "expected a checkpoint, found list"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, value: Any, said: str) -> None:
    torch.save(value, tmp_path / "file.pth")
    with pytest.raises(UserError) as error:
        read_released(tmp_path / "file.pth")
    assert said in str(error.value)
