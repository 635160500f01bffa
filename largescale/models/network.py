"""From images to descriptors: backbone, pooling, normalization, optional projection. B images, C channels, D dimensions."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from largescale.models.backbones import build_backbone
from largescale.models.config import Metric, ModelConfig, Pooling
from largescale.models.pooling import MAC, RMAC, GeM, SPoC, l2_normalize
from largescale.models.weights import load_exactly, load_weights
from largescale.settings import UserError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 `(B, 3, H, W)` to floats with ImageNet's mean 0 and deviation 1 per channel; the channels of a pixel together."""
    rows = images.permute(0, 2, 3, 1).flatten(2)  # (B, H, 3 W): a constant per channel would be added three numbers at a time
    mean, std = (torch.tensor(values, dtype=torch.float64).repeat(images.shape[3]) for values in (MEAN, STD))
    scale, shift = (1 / (255 * std)).to(rows.device, dtype), (-mean / std).to(rows.device, dtype)
    floats = rows.to(dtype, copy=True)
    torch.addcmul(shift, floats, scale, out=floats)  # one pass, in place: each further one costs a tenth of decoding
    return floats.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


class RetrievalNet(nn.Module):
    """A descriptor network: backbone, pooling, L2, and where `projection` is set a linear layer and L2 again (as cirtorch)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, channels = build_backbone(config.backbone, config.pooling == "class_token")
        self.pool = _build_pool(config, channels)
        self.projection = nn.Linear(channels, config.projection) if config.projection else None
        self.dim = config.projection or channels
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        self.train()

    @property
    def metric(self) -> Metric:
        """How its descriptors are compared."""
        return self.config.metric

    @property
    def scale_exponent(self) -> float:
        """The exponent of the mean over scales (cirtorch): GeM's own, where its result is the descriptor."""
        if isinstance(self.pool, GeM) and self.pool.p.numel() == 1 and self.projection is None:
            return self.pool.p.item()
        return 1.0

    @staticmethod
    def from_file(path: Path) -> tuple["RetrievalNet", dict[str, Any]]:
        """The network in an interchange file (see `save_weights`) and its metadata.

        Raises:
            UserError: no such file, not an interchange file, or names that do not fit.
        """
        config, state, metadata = load_weights(path)
        net = RetrievalNet(config)
        load_exactly(net, state, str(path))
        return net, metadata

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Descriptors of images.

        Args:
            images: `(B, 3, H, W)`, normalized (see `normalize`).

        Returns:
            `(B, D)` unit rows (unless `normalize` is off), float32 also under autocast: pooling, normalization and projection
            are never done in bf16.
        """
        return self.describe(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W) -> (B, C, H / s, W / s)`: the backbone alone."""
        return self.backbone(images.contiguous(memory_format=self.memory_format))

    def describe(self, features: torch.Tensor) -> torch.Tensor:
        """`(B, C, H / s, W / s) -> (B, D)`: what follows the backbone."""
        with torch.autocast(features.device.type, enabled=False):
            x = self._scaled(self.pool(features.to(torch.promote_types(features.dtype, torch.float32))))
            return x if self.projection is None else self._scaled(self.projection(x))

    def pooled(self, pooling: Pooling) -> "RetrievalNet":
        """The same backbone, not a copy, under another pooling and without projection; its own pooling as it is learned.

        Raises:
            UserError: the backbone gives a class token, and no map that could be pooled.
        """
        if "class_token" in (pooling, self.config.pooling):
            raise UserError("pooling=class_token is no map of features, so there is no other pooling of it")
        exponents = {} if pooling == self.config.pooling else {"gem_p": 3.0, "gem_exponent": "learned"}
        config = self.config.model_copy(update={"pooling": pooling, "projection": None, **exponents})
        with torch.device("meta"):
            other = RetrievalNet(config)
        other.backbone, other.pool = (
            self.backbone,
            self.pool if pooling == self.config.pooling else _build_pool(config, other.dim),
        )
        return other.to(next(self.parameters()).device).train(self.training)

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        return l2_normalize(x) if self.config.normalize else x

    def train(self, mode: bool = True) -> "RetrievalNet":
        """As `nn.Module.train`, but frozen batch normalization keeps using its running statistics."""
        super().train(mode)
        if self.config.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def _build_pool(config: ModelConfig, channels: int) -> nn.Module:
    if config.pooling == "gem":
        per_channel = config.gem_exponent == "per_channel"
        return GeM(config.gem_p, learned=config.gem_exponent != "fixed", channels=channels if per_channel else 1)
    return {"mac": MAC, "spoc": SPoC, "rmac": RMAC, "class_token": SPoC}[config.pooling]()
