"""Convolutions in which the addition and the activation behind them are computed, too (oneDNN)."""

from typing import cast

import torch
from torch import Tensor, nn

from largescale.models.backbones.contract import Contract

Activation = tuple[str, list[float]]
"""Its name in oneDNN, and its numbers."""
NONE: Activation = ("none", [])
ACTIVATIONS: dict[type, Activation] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
POSITIVE = (ACTIVATIONS[nn.ReLU], ACTIVATIONS[nn.ReLU6])


class Convolution(nn.Module):
    """A convolution, an addition and an activation in one."""

    def __init__(self, layer: nn.Conv2d, activation: Activation, adds: bool) -> None:
        super().__init__()
        self.settings = cast("tuple[int, ...]", layer.padding), layer.stride, layer.dilation, layer.groups
        self.weight, self.dtype = layer.weight.detach(), layer.weight.dtype
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.activation, self.adds = activation, adds

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        layer = (self.weight, self.bias, *self.settings)
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(x.to(self.dtype), *layer, *self.activation, "")
        added = (other.to(self.dtype), *layer, "add", 1.0, *(None if x == "none" else x for x in self.activation), None)
        return torch.ops.mkldnn._convolution_pointwise.binary(x.to(self.dtype), *added)

    def round_to_bf16(self, mean: Tensor) -> None:
        """Compute in bf16 from now on, without what rounded weights would add on average (Nagel et al. 2019, section 4.2).

        Args:
            mean: `(channels,)` float64 of what it is given.
        """
        exact = self.weight.double()
        self.weight, self.dtype = self.weight.bfloat16(), torch.bfloat16
        lost = (exact - self.weight.double()).sum((2, 3)).unflatten(0, (self.settings[3], -1))  # (groups, out, in of a group)
        bias = (lost * mean.view(len(lost), 1, -1)).sum(2).flatten() + (0 if self.bias is None else self.bias.double())
        self.bias = bias.to(torch.bfloat16 if self.adds else torch.float32)  # its kernels with an addition want bf16


class OfPixels(Convolution):
    """The first convolution: normalization becomes part of it, and where it pads with the mean color, pixels of that color."""

    def __init__(self, layer: nn.Conv2d, activation: Activation, adds: bool, contract: Contract) -> None:
        mean, std = torch.tensor(contract.mean, dtype=torch.float64), torch.tensor(contract.std, dtype=torch.float64)
        weight = layer.weight.detach().double()
        bias = 0 if layer.bias is None else layer.bias.detach().double()
        layer.weight = nn.Parameter((weight / (255 * std).view(3, 1, 1)).float())
        layer.bias = nn.Parameter((bias - (weight * (mean / std).view(3, 1, 1)).sum((1, 2, 3))).float())
        self.around, layer.padding = cast("tuple[int, int]", layer.padding), (0, 0)
        super().__init__(layer, activation, adds)
        self.mean, self.middle = (255 * mean).float().view(3, 1, 1), 0

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        (down, right), (count, channels, height, width) = self.around, x.shape
        shape = (count, height + 2 * down, width + 2 * right, channels)
        padded = torch.empty(shape, dtype=self.dtype).permute(0, 3, 1, 2)
        for border in (padded[:, :, :down], padded[:, :, down + height :], padded[..., :right], padded[..., right + width :]):
            border.copy_(self.mean)
        inside = padded[:, :, down : down + height, right : right + width].copy_(x)
        if self.middle:
            inside.sub_(self.middle)
        return super().forward(padded, other)

    def round_to_bf16(self, mean: Tensor) -> None:
        """It sees pixels less a middle brightness from now on: whole numbers up to 141 are exact, and what their products add up
        to is no small difference of large numbers, which rounded weights would make large."""
        self.middle = round(float(self.mean.mean()))
        self.bias = (cast("Tensor", self.bias).double() + self.middle * self.weight.double().sum((1, 2, 3))).float()
        super().round_to_bf16(mean - self.middle)
        self.mean = (self.mean - self.middle).bfloat16()
