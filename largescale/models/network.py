"""From images to descriptors: backbone, pooling, normalization, optional projection. B images, C channels, D dimensions."""

import copy
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from largescale.models.backbones.contract import Contract
from largescale.models.backbones.tokens import Tokens
from largescale.models.config import Metric, ModelConfig, Pooling
from largescale.models.pooling import MAC, RMAC, GeM, SPoC, l2_normalize
from largescale.precision import without_autocast
from largescale.settings import UserError

ONE_CELL: Mapping[str, Tokens] = {"class_token": "class_token", "class_mean": "class_mean", "own": "own"}
"""Poolings that the backbone does itself."""


class RetrievalNet(nn.Module):
    """A descriptor network: backbone, pooling, L2, and where `projection` is set a linear layer and L2 again (as cirtorch).

    `build_network` makes one from settings alone.

    Args:
        backbone: `(B, 3, H, W) -> (B, C, H / s, W / s)`.
        contract: what the backbone asks of images.
    """

    def __init__(self, config: ModelConfig, backbone: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.config, self.backbone, self.contract = config, backbone, contract
        self.pool = _build_pool(config, contract.channels)
        self.projection = nn.Linear(contract.channels, config.projection) if config.projection else None
        self.dim = config.projection or contract.channels
        last = config.channels_last and not _skips_pixels(backbone)
        self.memory_format = torch.channels_last if last else torch.contiguous_format
        for parameter in self.parameters():
            if parameter.ndim == 4:  # `to` would refuse the others that may be there, those of Conv3d
                parameter.data = parameter.data.contiguous(memory_format=self.memory_format)
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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Descriptors of images.

        Args:
            images: `(B, 3, H, W)`, normalized (see `Contract.normalize`).

        Returns:
            `(B, D)` unit rows (unless `normalize` is off), float32 also under autocast: pooling, normalization and projection
            are never done in bf16.
        """
        return self.describe(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W) -> (B, C, H / s, W / s)`: the backbone alone; what is beyond whole patches is left out."""
        height, width = (side // self.contract.multiple * self.contract.multiple for side in images.shape[2:])
        images = images[:, :, :height, :width]
        return self.backbone(images.contiguous(memory_format=self.memory_format))

    def describe(self, features: torch.Tensor) -> torch.Tensor:
        """`(B, C, H / s, W / s) -> (B, D)`: what follows the backbone."""
        with without_autocast(features):
            x = self.pool(features.to(torch.promote_types(features.dtype, torch.float32)))
            if self.config.layer_norm:
                x = functional.layer_norm(x, x.shape[1:])
            elif self.config.normalize_pooled:
                x = self._scaled(x)
            if self.projection is not None:
                x = self.projection(x)
            elif not self.config.layer_norm:
                return x
            return self._scaled(x)

    def with_backbone(self, backbone: nn.Module) -> "RetrievalNet":
        """The same pooling and projection, not copies, after a backbone that gives features of the same channels."""
        other = copy.copy(self)
        other._modules = {**self._modules, "backbone": backbone}
        return other

    def pooled(self, pooling: Pooling) -> "RetrievalNet":
        """The same backbone, not a copy, under another pooling and without projection; its own pooling as it is learned.

        Raises:
            UserError: the backbone gives one vector, and no map that could be pooled.
        """
        cell = next((name for name in ONE_CELL if name in (pooling, self.config.pooling)), None)
        if cell is not None:
            raise UserError(f"pooling={cell} is no map of features, so there is no other pooling of it")
        exponents = {} if pooling == self.config.pooling else {"gem_p": 3.0, "gem_exponent": "learned"}
        config = self.config.model_copy(update={"pooling": pooling, "projection": None, **exponents})
        other = RetrievalNet(config, self.backbone, self.contract)
        if pooling == self.config.pooling:
            other.pool = self.pool
        return other.to(next(self.parameters()).device).train(self.training)

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        return l2_normalize(x) if self.config.normalize else x

    def train(self, mode: bool = True) -> "RetrievalNet":
        """As `nn.Module.train`, but batch normalization that is frozen, or in a frozen layer, keeps its running statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (self.config.freeze_batchnorm or _is_frozen(module)):
                module.eval()
        return self


def _build_pool(config: ModelConfig, channels: int) -> nn.Module:
    if config.pooling == "gem":
        per_channel = config.gem_exponent == "per_channel"
        return GeM(config.gem_p, learned=config.gem_exponent != "fixed", channels=channels if per_channel else 1)
    return {"mac": MAC, "rmac": RMAC}.get(config.pooling or "", SPoC)()


def _is_frozen(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    return norm.weight is not None and not norm.weight.requires_grad


def _skips_pixels(backbone: nn.Module) -> bool:
    """Whether a convolution takes single pixels of an image, and not all of them (FastViT): with the channels last, the gradient
    of torch 2.14 for it frees memory twice on CPUs."""
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return any(c.in_channels == 3 and c.kernel_size == (1, 1) and c.stride != (1, 1) for c in convolutions)
