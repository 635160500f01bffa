"""A network on disk with all that its descriptors depend on: one folder, in the layout of the Hugging Face hub.

    model.safetensors       the network, as every weights file
    whitening.safetensors   mean (D,) and directions (d, D), where its descriptors are whitened
    anchors.safetensors     anchors (C, D) of the classes, where it was trained with them
    config.json             how a picture becomes a descriptor; format version; SHA-256 of the other files; written last
    README.md               the model card

D dimensions, d kept dimensions, C classes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt, ValidationError

from largescale.commit import claim_folder, read_json, write_json, write_text
from largescale.models.backbones.contract import Contract, Fit, Interpolation
from largescale.models.build import restored
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.models.transform.transform import Transform
from largescale.models.weights import load_weights, save_weights
from largescale.models.whitening import Whitening
from largescale.precision import Precision
from largescale.program.cli import called
from largescale.settings import Settings, UserError
from largescale.tensors import read_copies, write_tensors

FORMAT, VERSION = "largescale model", 1
CONFIG, NETWORK, WHITENING, ANCHORS, CARD = (
    "config.json",
    "model.safetensors",
    "whitening.safetensors",
    "anchors.safetensors",
    "README.md",
)


class DescriptorConfig(Settings):
    """How a picture becomes a descriptor."""

    size: PositiveInt = 1024
    """Longest side in pixels (inside), or both sides (squash)."""
    fit: Fit = "inside"
    """inside: aspect kept, longest side shrunk to `size`, never enlarged; squash: scaled to size x size; crop: the center."""
    interpolation: Interpolation = "bilinear"
    """With antialiasing."""
    color: Literal["RGB"] = "RGB"
    """Gray is repeated, transparency is laid over white, EXIF orientation is applied."""
    mean: tuple[float, float, float] = Contract.mean
    """Of each channel, in [0, 1]."""
    deviation: tuple[float, float, float] = Contract.std
    scales: tuple[PositiveFloat, ...] = (1.0,)
    """A picture is described at each; their generalized mean is whitened."""
    exponent: PositiveFloat = 1.0
    """Of the mean over scales."""
    whitening: str = "none"
    """How the whitening was fitted."""
    precision: Precision = "auto"
    """In which numbers the network computes; auto: bf16 where the processor has it fast, else fp32."""
    dim: PositiveInt
    """Dimensions of a descriptor."""

    @staticmethod
    def seen_as(contract: Contract, **values: Any) -> "DescriptorConfig":
        """Pictures as the network's contract has them, the rest as given."""
        return DescriptorConfig(size=contract.size, fit=contract.fit, interpolation=contract.interpolation, **values)


MODEL = "model"
"""The folder of it in that of a run, or of an evaluation."""


@dataclass(frozen=True)
class Contents:
    """What a model folder holds."""

    network: RetrievalNet
    settings: DescriptorConfig
    whitening: Whitening | None = None
    anchors: torch.Tensor | None = None
    """`(C, D)`."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: the run, its corpus, its step, scores."""

    def __post_init__(self) -> None:
        """Of a whitening, the directions that are used are kept."""
        if self.whitening is not None:
            kept = Whitening(self.whitening.mean, self.whitening.directions[: self.settings.dim].contiguous())
            object.__setattr__(self, "whitening", kept)

    @property
    def transform(self) -> Transform:
        whole = self.whitening is not None or self.settings.dim == self.network.dim
        return Transform(
            self.settings.exponent, self.whitening, None if whole else self.settings.dim, self.network.metric == "cosine"
        )


def write_folder(directory: Path, contents: Contents, card: str) -> None:
    """Write a model folder; `config.json` comes last, and while it is not there, there is no model.

    Raises:
        UserError: the folder holds something else.
    """
    directory = Path(directory)
    claim_folder(directory, "model", "out=")
    (directory / CONFIG).unlink(missing_ok=True)
    for name in (WHITENING, ANCHORS):
        (directory / name).unlink(missing_ok=True)
    save_weights(contents.network, directory / NETWORK, {})
    if contents.whitening is not None:
        write_tensors(directory / WHITENING, asdict(contents.whitening))
    if contents.anchors is not None:
        write_tensors(directory / ANCHORS, {"anchors": contents.anchors.float()})
    write_text(directory / CARD, card)
    files = {name: _sha256(directory / name) for name in (NETWORK, WHITENING, ANCHORS) if (directory / name).exists()}
    values = {"format": FORMAT, "version": VERSION, **_identity(contents)}
    values["anchors"] = 0 if contents.anchors is None else len(contents.anchors)
    write_json(directory / CONFIG, {**values, "about": dict(contents.about), "files": files})


def digest_of(contents: Contents) -> str:
    """Of all that its descriptors depend on."""
    return _hash(json.loads(json.dumps(_identity(contents))))


def _identity(contents: Contents) -> dict[str, Any]:
    contract = contents.network.contract
    settings = contents.settings.model_copy(update={"mean": contract.mean, "deviation": contract.std})
    model = contents.network.config.model_dump(mode="json", exclude={"weights"})
    return {"model": model, "descriptor": settings.model_dump(mode="json"), "tensors": _hash_of(contents)}


def _hash(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def read_folder(directory: Path) -> tuple[Contents, str]:
    """What a model folder holds, and the hash of all that its descriptors depend on.

    Raises:
        UserError: no model folder, one of another version, a file that is missing or is not the one that was written.
    """
    values = read_config(directory)
    for name, expected in values["files"].items():
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise UserError(f"{directory / CONFIG} lists {name}, which is not there: the folder is incomplete; copy it again")
        if (found := _sha256(path)) != expected:
            raise UserError(
                f"{path} is not the file that was written (SHA-256 {found[:12]}…, {CONFIG} says {expected[:12]}…): "
                "it is damaged or was exchanged; copy the folder again"
            )
    try:
        settings, stated = DescriptorConfig(**values["descriptor"]), ModelConfig(**values["model"])
    except ValidationError as error:
        raise UserError(f"{directory / CONFIG} has settings that are not known here: {error}") from None
    if ":" in stated.backbone and not stated.backbone.startswith("timm:"):
        raise UserError(
            f"{directory / CONFIG} names a backbone of somebody's own code ({stated.backbone}), which is not run from a model "
            "folder; use the weights file of its run"
        )
    weights = load_weights(directory / NETWORK)
    if weights.config != stated:
        raise UserError(f"{directory / NETWORK} holds another network than {CONFIG} describes; copy the folder again")
    network = restored(weights, str(directory / NETWORK))
    whitening = Whitening(**read_copies(directory / WHITENING)) if WHITENING in values["files"] else None
    anchors = read_copies(directory / ANCHORS)["anchors"] if ANCHORS in values["files"] else None
    digest = _hash({name: values[name] for name in ("model", "descriptor", "tensors")})
    return Contents(network.eval(), settings, whitening, anchors, values["about"]), digest


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` as it is written.

    Raises:
        UserError: there is none, it is damaged, or it is of another version.
    """
    path = Path(directory) / CONFIG
    try:
        values = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} is no model folder: it has no {CONFIG}; {called('export')} makes one") from None
    found = values.get("format"), values.get("version")
    if found != (FORMAT, VERSION):
        raise UserError(f"{path}: expected {FORMAT!r} version {VERSION}, found {found}: the model cannot be read by this version")
    return values


def _hash_of(contents: Contents) -> str:
    """Of what the files hold: the bytes of a safetensors file differ from one writing to the next."""
    digest, whitening = hashlib.sha256(), contents.whitening
    tensors = {
        **contents.network.state_dict(),
        **({"whitening": whitening.directions, "center": whitening.mean} if whitening else {}),
    }
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
