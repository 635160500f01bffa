"""What the settings of all losses have in common."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import PositiveInt, field_validator

from largescale.settings import Settings

Kind = Literal["tuples", "labels"]


class LossSettings(Settings):
    """What all losses have."""

    name: str
    matryoshka: tuple[PositiveInt, ...] = ()
    """The loss is also computed of the first so many dimensions of each descriptor, and averaged, e.g. [64, 128]: a descriptor
    can be cut there afterwards (Matryoshka representations). []: of the whole descriptor only."""

    @field_validator("matryoshka")
    @classmethod
    def _growing(cls, dims: tuple[int, ...]) -> tuple[int, ...]:
        if list(dims) != sorted(set(dims)):
            raise ValueError("expected different numbers of dimensions, the smallest first")
        return dims

    @property
    def kind(self) -> Kind:
        """What the loss learns from: tuples of a query, a positive and negatives, or batches of labels."""
        raise NotImplementedError

    @property
    def pairs(self) -> bool:
        """Whether images are compared with images, so that a class needs two in a batch."""
        return True

    def for_loss(self) -> dict[str, Any]:
        """The settings that the loss itself takes, under the same names."""
        return self._but(("name", "matryoshka"))

    def _but(self, others: Iterable[str]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name not in others}
