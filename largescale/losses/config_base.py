"""What the settings of all losses have in common."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from largescale.settings import Settings

if TYPE_CHECKING:
    from largescale.losses.base import Loss
    from largescale.losses.memory import CrossBatchMemory

Objective: TypeAlias = "Loss | CrossBatchMemory"
Kind = Literal["tuples", "labels"]
Reduction = Literal["mean", "sum"]


class LossSettings(Settings):
    """What all losses have: the kind of batch they see, and how they are built."""

    kind: ClassVar[Kind]
    name: str

    def build(self, num_classes: int, dim: int) -> "Objective":
        """The loss for descriptors of `dim` dimensions and labels 0 ... num_classes - 1."""
        raise NotImplementedError

    def _arguments(self) -> dict[str, Any]:
        """The settings that the loss itself takes, under the same names."""
        others = ("name", "memory", "memory_weight")
        return {name: getattr(self, name) for name in type(self).model_fields if name not in others}
