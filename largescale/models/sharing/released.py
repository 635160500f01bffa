"""Checkpoints that others have published, as model contents: cirtorch's and dirtorch's. No code in them is run.

D dimensions, d kept dimensions.
"""

import importlib
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from largescale.models.build import build_network
from largescale.models.config import TORCHVISION, ModelConfig
from largescale.models.sharing.folder import Contents, DescriptorConfig
from largescale.models.transform.multiscale import SCALES
from largescale.models.weights import load_exactly
from largescale.models.whitening import Whitening
from largescale.settings import UserError

RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""cirtorch numbers the parts of a ResNet."""
POWER = 0.25
"""dirtorch's of the variances in its whitening (`--whitenp`)."""


class Fields:
    """Stands for a class that a file names: keeps what is set on it, and does nothing."""


def read_released(path: Path, multiscale: bool = False) -> Contents:
    """
    Args:
        multiscale: describe at scales 1, 1/√2 and 1/2, with cirtorch's whitening for these.

    Raises:
        UserError: a file that cannot be read without running code in it, or of no known kind.
    """
    checkpoint = _load(path)
    if "meta" in checkpoint and "state_dict" in checkpoint:
        return _cirtorch(checkpoint, path, multiscale)
    if "model_options" in checkpoint and "state_dict" in checkpoint:
        return _dirtorch(checkpoint, path, multiscale)
    if checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        raise UserError(
            f"{path} holds tensors and does not say of which network: give model.backbone=NAME and model.weights={path} in place "
            "of model="
        )
    raise UserError(
        f"{path} is no checkpoint that is known (it holds {', '.join(map(str, list(checkpoint)[:8]))}): expected one of "
        "cirtorch, with meta and state_dict, or of dirtorch, with model_options and state_dict"
    )


def _load(path: Path) -> Mapping[str, Any]:
    names, multiarray = ["numpy.core.multiarray", "numpy._core.multiarray"], importlib.import_module("numpy._core.multiarray")
    arrays: list[Any] = [(multiarray._reconstruct, f"{name}._reconstruct") for name in names]
    arrays += [(multiarray.scalar, f"{name}.scalar") for name in names]
    arrays += [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "b1"))]
    arrays += [(Fields, f"sklearn.decomposition.{name}.PCA") for name in ("pca", "_pca")]
    try:
        with torch.serialization.safe_globals(arrays):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no model {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a file of tensors and plain values ({_reason(error)}); nothing in it was run"
        ) from None
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path}: expected a checkpoint, found {type(checkpoint).__name__}")
    return checkpoint


def _reason(error: Exception) -> str:
    """What torch found, without its advice to trust the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return lines[0].removeprefix("WeightsUnpickler error: ").partition(" Please use ")[0] if lines else repr(error)


def _cirtorch(checkpoint: Mapping[str, Any], path: Path, multiscale: bool) -> Contents:
    """Radenović's: `features`, `pool.p` and `whiten` in the state dict; `meta` with the architecture and whitenings `Lw`."""
    meta = checkpoint["meta"]
    backbone = _known(meta["architecture"], path)
    if meta.get("regional") or meta.get("local_whitening") or meta["pooling"] not in ("gem", "mac", "spoc", "rmac"):
        raise UserError(f"{path}: regional pooling, local whitening and pooling={meta['pooling']!r} are not supported")
    projection = checkpoint["state_dict"]["whiten.weight"].shape[0] if meta.get("whitening") else None
    rename = _cirtorch_resnet if backbone.startswith("resnet") else _cirtorch_features
    state = {rename(name): tensor for name, tensor in checkpoint["state_dict"].items() if not name.startswith("lwhiten.")}
    config = ModelConfig(backbone=backbone, pooling=meta["pooling"], projection=projection)
    whitening, about = None, {"checkpoint": path.name, "of": "cirtorch"}
    if meta.get("Lw"):
        name = next(iter(sorted(meta["Lw"], key=lambda name: ("120k" not in name, name))))
        kind = "ms" if multiscale and "ms" in meta["Lw"][name] else "ss"
        found = meta["Lw"][name][kind]
        whitening = Whitening(_tensor(found["m"]).flatten(), _tensor(found["P"]))
        about |= {"whitening": f"{name}, {kind}"}
    colors = {"mean": tuple(meta["mean"]), "std": tuple(meta["std"])} if "mean" in meta else {}
    return _contents(config, state, path, multiscale, whitening, about, colors)


def _cirtorch_resnet(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "features" and parts[1] in RESNET:
        return ".".join(["backbone", RESNET[parts[1]], *parts[2:]])
    return _cirtorch_features(name)


def _cirtorch_features(name: str) -> str:
    return f"backbone.{name}" if name.startswith("features.") else name.replace("whiten.", "projection.", 1)


def _dirtorch(checkpoint: Mapping[str, Any], path: Path, multiscale: bool) -> Contents:
    """Naver's: torchvision's names, `adpool.p` and `fc`; principal components `pca` by the name of their images."""
    options = checkpoint["model_options"]
    backbone = _known(str(options["arch"]).partition("_")[0], path)
    state = {name.removeprefix("module."): tensor for name, tensor in checkpoint["state_dict"].items()}
    pooling = {"gem": "gem", "max": "mac", "avg": "spoc"}.get(str(options.get("pooling", "gem")).partition("_")[0])
    if pooling is None or "fpn" in str(options["arch"]) or options.get("center_bias"):
        raise UserError(f"{path}: of dirtorch's networks, those with gem, max or avg pooling and no center bias are supported")
    projection = state["fc.weight"].shape[0] if "fc.weight" in state and not options.get("without_fc") else None
    renamed = {_dirtorch_name(name): x for name, x in state.items() if projection or not name.startswith("fc.")}
    learned = "pool.p" in renamed
    if not learned and pooling == "gem":
        renamed["pool.p"] = torch.tensor([float(options.get("gemp", 3))], dtype=torch.float64)
    values: dict[str, Any] = {"backbone": backbone, "pooling": pooling, "projection": projection}
    if pooling == "gem":
        values["gem_exponent"] = "learned" if learned else "fixed"
    config = ModelConfig(**values, normalize_pooled=projection is None or bool(options.get("norm_features")))
    whitening, about = None, {"checkpoint": path.name, "of": "dirtorch"}
    if checkpoint.get("pca"):
        name, found = next(iter(checkpoint["pca"].items()))
        directions = _tensor(found.components_) / _tensor(found.explained_variance_)[:, None] ** POWER
        whitening = Whitening(_tensor(found.mean_), directions)
        about |= {"whitening": f"{name}, power {POWER}"}
    preprocess = checkpoint.get("preprocess") or options.get("preprocess") or {}
    colors = {key: tuple(preprocess[key]) for key in ("mean", "std") if key in preprocess}
    return _contents(config, renamed, path, multiscale, whitening, about, colors)


def _dirtorch_name(name: str) -> str:
    ours = {"adpool.p": "pool.p", "fc.weight": "projection.weight", "fc.bias": "projection.bias"}
    return ours.get(name, f"backbone.{name}")


def _contents(
    config: ModelConfig,
    state: Mapping[str, torch.Tensor],
    path: Path,
    multiscale: bool,
    whitening: Whitening | None,
    about: Mapping[str, Any],
    colors: Mapping[str, Any],
) -> Contents:
    network = build_network(config)
    load_exactly(network, {name: x.reshape(1) if name == "pool.p" else x for name, x in state.items()}, str(path))
    network.contract = replace(network.contract, size=1024, fit="inside", **colors)
    settings = DescriptorConfig(
        size=1024,
        scales=SCALES if multiscale else (1.0,),
        exponent=network.scale_exponent if multiscale else 1.0,
        whitening="none" if whitening is None else "learned" if about["of"] == "cirtorch" else "pca",
        dim=network.dim if whitening is None else len(whitening.directions),
    )
    return Contents(network.eval(), settings, whitening, None, about)


def _known(name: str, path: Path) -> str:
    if name not in TORCHVISION:
        raise UserError(f"{path} is of the backbone {name!r}; known here are {', '.join(TORCHVISION)}")
    return name


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.float64))
