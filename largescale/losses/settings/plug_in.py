"""Settings of a loss of the user's own."""

from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, NonNegativeInt, PositiveFloat, model_validator

from largescale.losses.settings.base import Kind, LossSettings
from largescale.program.plugins import arguments_of, find
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.losses.base import Loss

GROUP = "largescale.losses"


class PlugInConfig(LossSettings):
    """A loss of your own; its other settings are the arguments of its class."""

    model_config = ConfigDict(extra="allow")

    name: str
    """package.module:Class, a subclass of LabelLoss or TupleLoss; or an entry point of the group largescale.losses."""
    memory: NonNegativeInt = 0
    """Descriptors of earlier batches to compare with (cross-batch memory); 0 = none."""
    memory_weight: PositiveFloat = 1.0
    """Weight of the comparison with the memory."""

    @model_validator(mode="after")
    def _known_to_the_class(self) -> "PlugInConfig":
        try:
            self.for_loss()
        except UserError as error:
            raise ValueError(str(error)) from None
        if self.memory and self.kind == "tuples":
            raise ValueError(f"memory={self.memory}: {self.name} is a loss over tuples, which has no memory; set loss.memory=0")
        return self

    @property
    def kind(self) -> Kind:
        from largescale.losses.labels.base import LabelLoss

        return "labels" if issubclass(self.loss_class(), LabelLoss) else "tuples"

    @property
    def pairs(self) -> bool:
        return getattr(self.loss_class(), "pairs", True)

    def loss_class(self) -> "type[Loss]":
        """
        Raises:
            UserError: there is no such class, or it is no loss.
        """
        from largescale.losses.labels.base import LabelLoss
        from largescale.losses.tuples.base import TupleLoss

        return find(self.name, GROUP, (LabelLoss, TupleLoss))

    def for_loss(self) -> dict[str, Any]:
        return arguments_of(self.loss_class(), self.model_extra or {}, given=("num_classes", "dim", "holders"))
