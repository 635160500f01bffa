"""Whatever a trained network may be in: a folder, the hub, a run, a weights file, a published checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from largescale.models.build import build_network, restored
from largescale.models.config import ModelConfig
from largescale.models.folder import CONFIG, Contents, DescriptorConfig, digest_of, read_folder
from largescale.models.hub import PREFIX, fetch
from largescale.models.network import RetrievalNet
from largescale.models.released import read_released
from largescale.models.weights import load_weights
from largescale.settings import UserError


def open_contents(source: str | Path | ModelConfig, multiscale: bool = False) -> tuple[Contents, str]:
    """What a source holds, and the hash of all that its descriptors depend on.

    Args:
        source: a model folder, `hub:USER/NAME`, the folder of a run, a weights file of a run, a checkpoint of cirtorch or
            dirtorch, or the settings of a network that was trained elsewhere (published weights).
        multiscale: of a published checkpoint.

    Raises:
        UserError: none of these, damaged, or of another version.
    """
    if isinstance(source, ModelConfig):
        return _of_network(build_network(source).eval(), {"weights": source.weights})
    if str(source).startswith(PREFIX):
        return read_folder(fetch(str(source)))
    path = Path(source)
    if path.is_dir():
        inner = path / "model"
        return read_folder(inner if not (path / CONFIG).exists() and inner.is_dir() else path)
    if not path.exists():
        raise UserError(f"there is no model {path}: give a folder, hub:USER/NAME, a run, a weights file or a checkpoint")
    if path.suffix == ".safetensors":
        weights = load_weights(path)
        return _of_network(restored(weights, str(path)).eval(), weights.metadata)
    contents = read_released(path, multiscale)
    return contents, digest_of(contents)


def _of_network(network: RetrievalNet, about: Mapping[str, Any]) -> tuple[Contents, str]:
    """With the size and fit of its training, or as published."""
    contract = network.contract
    settings = DescriptorConfig(size=contract.size, fit=contract.fit, interpolation=contract.interpolation, dim=network.dim)
    contents = Contents(network, settings, about=about)
    return contents, digest_of(contents)
