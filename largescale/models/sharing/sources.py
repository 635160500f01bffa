"""Whatever a trained network may be in: a folder, the hub, a run, a weights file, a published checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from largescale.commit import read_array
from largescale.models.build import build_network, restored
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.models.sharing.folder import CONFIG, MODEL, Contents, DescriptorConfig, digest_of, read_folder
from largescale.models.sharing.hub import PREFIX, fetch
from largescale.models.sharing.released import read_released
from largescale.models.weights import load_weights
from largescale.models.whitening import Whitening
from largescale.settings import UserError
from largescale.tensors import read_copies, write_tensors

Source = str | Path | ModelConfig
WHITENING_SUFFIX = ".whitening.safetensors"
SHRUNK = "learned_shrunk"
"""The kind of whitening that training fits, as evaluations name it."""


def open_contents(source: Source, multiscale: bool = False) -> tuple[Contents, str]:
    """What a source holds, and the hash of all that its descriptors depend on.

    Args:
        source: a model folder, `hub:USER/NAME`, the folder of a run, a weights file of a run, a checkpoint of cirtorch or
            dirtorch, or the settings of a network that was trained elsewhere (published weights).
        multiscale: of a published checkpoint.

    Raises:
        UserError: none of these, damaged, or of another version.
    """
    if isinstance(source, ModelConfig):
        contents = of_network(build_network(source).eval(), {"published": told(source)})
        return contents, digest_of(contents)
    if str(source).startswith(PREFIX):
        return read_folder(fetch(str(source)))
    path = Path(source)
    if path.is_dir():
        inner = path / MODEL
        if not (inner / CONFIG).exists() and (path / "weights").is_dir():
            raise UserError(
                f"the run {path} has not been finished, so it has no model yet: give one of the files in {path / 'weights'}"
            )
        return read_folder(path if (path / CONFIG).exists() else inner if inner.is_dir() else path)
    if not path.exists():
        raise UserError(f"there is no model {path}: give a folder, hub:USER/NAME, a run, a weights file or a checkpoint")
    if path.suffix == ".safetensors":
        weights = load_weights(path)
        contents = of_network(restored(weights, str(path)).eval(), weights.metadata, read_whitening(path), _anchors(path))
    else:
        contents = read_released(path, multiscale)
    return contents, digest_of(contents)


def told(source: Source) -> str:
    """A source in a word, for results and errors."""
    return f"{source.backbone}, weights={source.weights}" if isinstance(source, ModelConfig) else str(source)


def of_network(
    network: RetrievalNet, about: Mapping[str, Any], whitening: Whitening | None = None, anchors: torch.Tensor | None = None
) -> Contents:
    """With the size and fit of its training, or as published.

    Args:
        whitening: that training fitted.
    """
    fitted = {} if whitening is None else {"whitening": SHRUNK}
    settings = DescriptorConfig.seen_as(network.contract, exponent=network.scale_exponent, dim=network.dim, **fitted)
    return Contents(network, settings, whitening, anchors, about)


def write_whitening(weights: Path, whitening: Whitening) -> None:
    """Beside a weights file."""
    write_tensors(weights.with_suffix(WHITENING_SUFFIX), asdict(whitening))


def read_whitening(weights: Path) -> Whitening | None:
    """That beside a weights file, where there is one.

    Raises:
        DamagedError: it is not what was written.
    """
    file = weights.with_suffix(WHITENING_SUFFIX)
    return Whitening(**read_copies(file)) if file.exists() else None


def _anchors(weights: Path) -> torch.Tensor | None:
    """`(C, D)`, which training with class anchors writes beside the weights."""
    file = weights.with_suffix(".anchors.npy")
    return torch.from_numpy(read_array(file)) if file.exists() else None
