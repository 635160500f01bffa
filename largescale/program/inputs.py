"""Images as a network wants them: the settings of the images where they say something, else the contract of the backbone."""

import math
from dataclasses import replace

from largescale.corpus.config import ImagesConfig
from largescale.models.backbones.contract import Contract


def seen_by(contract: Contract, images: ImagesConfig) -> ImagesConfig:
    """The settings with everything filled in, the size rounded to what the backbone bears."""
    size, fit = images.size or contract.size, images.fit or contract.fit
    return images.model_copy(
        update={
            "size": contract.borne(size),
            "fit": "squash" if contract.fixed and fit == "inside" else fit,
            "interpolation": images.interpolation or contract.interpolation,
            "crop_share": images.crop_share or contract.crop_share,
            "multiple": math.lcm(images.multiple, contract.multiple),
            "least": max(images.least, contract.least),
        }
    )


def trained_on(contract: Contract, images: ImagesConfig) -> Contract:
    """The contract of a network that learns from such images: what describes with it later takes size and fit from there."""
    seen = seen_by(contract, seen_by(contract, images).after_training())
    assert seen.size is not None
    assert seen.fit is not None
    assert seen.interpolation is not None
    assert seen.crop_share is not None
    return replace(contract, size=seen.size, fit=seen.fit, interpolation=seen.interpolation, crop_share=seen.crop_share)


def stated(contract: Contract, images: ImagesConfig) -> str:
    """What the network sees, in a line; also that it is not the size that was asked for."""
    seen = seen_by(contract, images)
    sides = {"inside": "longest side {}", "squash": "{0} x {0}"}.get(seen.fit or "inside", "center crop {0} x {0}")
    asked = f" (not {images.size}, which the network does not bear)" if images.size not in (None, seen.size) else ""
    step = f", sides multiples of {contract.multiple}" if contract.multiple > 1 and not contract.fixed else ""
    colors = f"mean {_shown(contract.mean)}, deviation {_shown(contract.std)}"
    return f"{sides.format(seen.size)}{asked}{step}, {seen.interpolation}, {colors}"


def _shown(color: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.3g}" for value in color)
