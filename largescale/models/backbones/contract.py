"""What a backbone asks of the images that it sees; it is stored with the weights, and readers of images follow it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Fit = Literal["inside", "squash", "crop", "squash_crop"]
Interpolation = Literal["bilinear", "bicubic"]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Contract:
    """The defaults are those of torchvision's convolutional networks."""

    mean: Color = (0.485, 0.456, 0.406)
    """Of red, green and blue in [0, 1], which becomes 0."""
    std: Color = (0.229, 0.224, 0.225)
    """Becomes 1."""
    interpolation: Interpolation = "bilinear"
    """How images were resized when it was trained."""
    size: int = 224
    """Pixels of a side (see `ImagesConfig.size`): as published, and after a training those of the training."""
    fit: Fit = "inside"
    """See `ImagesConfig.fit`."""
    crop_share: float = 0.875
    """See `ImagesConfig.crop_share`."""
    multiple: int = 1
    """Sides are multiples of it: of a patch, or of a window of patches."""
    fixed: bool = False
    """It bears images of size x size pixels and no others."""
    least: int = 1
    """Pixels of the smallest side of which it makes a feature."""
    prefix: int = 0
    """Tokens before those of the patches: class token, registers."""
    channels: int = 0
    """Of its feature map."""

    @staticmethod
    def of(values: Mapping[str, Any]) -> "Contract":
        """From what `dataclasses.asdict` gave, after a way through JSON."""
        return Contract(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def normalize(self, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """uint8 `(B, 3, H, W)` to floats of mean 0 and deviation 1 per channel; the channels of a pixel together."""
        rows = images.permute(0, 2, 3, 1).flatten(2)  # (B, H, 3 W): a constant per channel would be added three numbers at a time
        colors = (self.mean, self.std)
        mean, std = (torch.tensor(values, dtype=torch.float64).repeat(images.shape[3]) for values in colors)
        scale, shift = (1 / (255 * std)).to(rows.device, dtype), (-mean / std).to(rows.device, dtype)
        floats = rows.to(dtype, copy=True)
        torch.addcmul(shift, floats, scale, out=floats)  # one pass, in place: each further one costs a tenth of decoding
        return floats.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)

    def borne(self, side: int) -> int:
        """The side (pixels) nearest to `side` that the backbone bears."""
        if self.fixed:
            return self.size
        return max(self.multiple * max(1, round(side / self.multiple)), self.least)
