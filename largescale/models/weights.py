"""Weights into and out of a network: published state dicts, ImageNet's by download, and our own interchange file.

The interchange file is a safetensors file with the bare names of `RetrievalNet`; its header holds the model's settings, what
its backbone asks of images, and what the run wants to say about it (step, fingerprint of the corpus). Pickles are read with
`weights_only`.
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from largescale.models.backbones.contract import Contract
from largescale.models.config import ModelConfig
from largescale.models.lora import merged
from largescale.models.network import RetrievalNet
from largescale.settings import UserError
from largescale.tensors import read_tensors, write_tensors

FORMAT = "largescale weights 2"
State = Mapping[str, torch.Tensor]


class Weights(NamedTuple):
    """What an interchange file holds."""

    config: ModelConfig
    state: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    contract: Contract


def save_weights(net: RetrievalNet, path: Path, metadata: Mapping[str, Any], state: State | None = None) -> None:
    """Write the interchange file, atomically; adapters are merged into the weights.

    Args:
        metadata: anything JSON can hold, for instance the step and the fingerprint of the corpus.
        state: the tensors in place of the network's own, under the same names: an average, or what an engine has gathered.
    """
    config, state = net.config, state or net.state_dict()
    if config.lora is not None:
        state, config = merged(state, config.lora), config.model_copy(update={"lora": None})
    values = {"contract": asdict(net.contract), "metadata": dict(metadata)}
    header = {"format": FORMAT, "model": config.model_dump_json(exclude={"weights"})}
    header |= {key: json.dumps(value) for key, value in values.items()}
    write_tensors(Path(path), state, header)


def load_weights(path: Path) -> Weights:
    """The settings of the network, its tensors, the metadata and the contract in an interchange file.

    Raises:
        UserError: there is no such file, or it is not an interchange file.
    """
    state, header = read_safetensors(Path(path))
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} is no weights file of a run (its header says {header.get('format')!r}, expected {FORMAT!r}): the network "
            "is not known; to start a training from it, give it as model.weights"
        )
    try:
        config, metadata = ModelConfig.model_validate_json(header["model"]), json.loads(header["metadata"])
        return Weights(config, state, metadata, Contract.of(json.loads(header["contract"])))
    except (LookupError, ValueError, TypeError) as error:
        raise UserError(f"the header of {path} cannot be read ({error}); fetch or write it again") from None


def load_exactly(module: torch.nn.Module, state: State, source: str) -> None:
    """As `load_state_dict`, strictly; the error lists every name that does not fit."""
    expected = module.state_dict()
    # a counter that torch before 0.4.1 did not store and that frozen statistics do not use
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name}: expected {tuple(expected[name].shape)}, found {tuple(x.shape)}"
        for name, x in state.items()
        if name in expected and x.shape != expected[name].shape
    ]
    if missing or unexpected or shapes:
        faults = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
        report = "".join(f"\n  {len(names)} {what}: {', '.join(names)}" for what, names in faults if names)
        raise UserError(f"{source} does not fit the network, nothing was loaded; give the weights of this model:{report}")
    module.load_state_dict(state, strict=False)


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        return read_tensors(path)
    except FileNotFoundError:
        raise UserError(f"there is no weights file {path}") from None


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"model.weights is none, imagenet or a file; there is no file {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a file of tensors ({(str(error) or repr(error)).splitlines()[0]})") from None
    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        found = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise UserError(f"{path}: expected a state dict (names to tensors), found {found[:300]}; save its state dict alone")
    return state
