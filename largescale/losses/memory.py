"""Cross-batch memory (XBM, Wang 2020): descriptors of recent batches as further images to compare with.

B batch, M memory, D dimensions.
"""

import torch
from torch import nn

from largescale.losses.labels.base import Gallery, LabelLoss
from largescale.losses.matryoshka import Matryoshka
from largescale.settings import UserError


class CrossBatchMemory(nn.Module):
    """loss(batch) + weight · loss(batch against the memory), then the batch replaces the oldest rows of the memory.

    The memory holds the batches before this one, so that no image meets itself. It has no gradient, is part of the state
    dict, and holds the same on every rank when the ranks see the same (gathered) batches. Batches with descriptors that are
    not finite are not remembered; evaluation neither reads nor writes it.

    Args:
        loss: any loss over labels that takes a gallery.
        size: rows of the memory.
        dim: dimensions of a descriptor.

    Raises:
        UserError: the loss compares images with something else than images (class proxies, anchors).
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    written: torch.Tensor

    def __init__(self, loss: LabelLoss | Matryoshka, size: int, dim: int, weight: float = 1.0) -> None:
        super().__init__()
        self.loss, self.weight = loss, weight
        self.register_buffer("embeddings", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._check_loss(dim)

    @property
    def degenerate(self) -> torch.Tensor:
        return self.loss.degenerate

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`(B, D)` and int64 `(B,)` to a scalar in float32 or float64."""
        value = self.loss(embeddings, labels)
        if not self.training:
            return value
        written = int(self.written)
        if written:
            value = value + self.weight * self.loss(embeddings, labels, self._gallery(written))
        self._remember(embeddings.detach(), labels, written)
        return value

    def _gallery(self, written: int) -> Gallery:
        """A copy: the rows change before the backward pass."""
        return Gallery(self.embeddings[:written].clone(), self.labels[:written].clone())

    def _remember(self, embeddings: torch.Tensor, labels: torch.Tensor, written: int) -> None:
        size = len(self.labels)
        embeddings, labels = embeddings[-size:].to(self.embeddings), labels[-size:]
        places = (written + torch.arange(len(labels), device=labels.device)) % size
        finite = embeddings.isfinite().all()
        self.embeddings[places] = torch.where(finite, embeddings, self.embeddings[places])
        self.labels[places] = torch.where(finite, labels, self.labels[places])
        self.written += len(labels) * finite

    def _check_loss(self, dim: int) -> None:
        x, labels = torch.eye(4, dim), torch.tensor([0, 0, 1, 1])
        try:
            with torch.no_grad():
                self.loss(x, labels, Gallery(x, labels))
        except (ValueError, TypeError, UserError) as error:
            raise UserError(f"this loss cannot compare a batch with a memory ({error}); set loss.memory=0") from None
        self.degenerate.zero_()
