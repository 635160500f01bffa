"""An average of the weights, in fp32, for evaluation, mining and export."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from largescale.training.engine.optimizer_state import Tensors, copied, part
from largescale.training.settings.config import Averaging


class WeightAverage:
    """Of the weights after each update: their mean (Polyak and Juditsky 1992), or decay * average + (1 - decay) * weights.

    Args:
        network: what is averaged (`Engine.network()`); it is copied. Buffers are not averaged but follow the network.
        kind: `mean`, or the decay of an exponential average, which begins as the weights after the first update.
    """

    def __init__(self, network: nn.Module, kind: Averaging) -> None:
        function = None if kind == "mean" else get_ema_multi_avg_fn(kind)
        self._averaged = AveragedModel(network, multi_avg_fn=function).requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights, whole on every rank."""
        return self._averaged.module

    def update(self, network: nn.Module) -> None:
        self._averaged.update_parameters(network)

    def state(self) -> Tensors:
        """Copies on the CPU for the checkpoint."""
        weights = {f"average.{name}": copied(tensor) for name, tensor in self.network.state_dict().items()}
        return weights | {"averaged_updates": copied(self._averaged.n_averaged)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(part(state, "average."))
        self._averaged.n_averaged.copy_(state["averaged_updates"])
