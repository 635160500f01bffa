"""An exponential moving average of the weights, in fp32, for evaluation, mining and export."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from largescale.training.engine.optimizer_state import Tensors, copied, part


class WeightAverage:
    """average = decay * average + (1 - decay) * weights after each update; the first update sets it to the weights.

    Args:
        network: what is averaged (`Engine.network()`); it is copied. Buffers are not averaged but follow the network.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights, whole on every rank."""
        return self._averaged.module

    def update(self, network: nn.Module) -> None:
        self._averaged.update_parameters(network)

    def state(self) -> Tensors:
        """Copies on the CPU for the checkpoint."""
        weights = {f"ema.{name}": copied(tensor) for name, tensor in self.network.state_dict().items()}
        return weights | {"ema_updates": copied(self._averaged.n_averaged)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(part(state, "ema."))
        self._averaged.n_averaged.copy_(state["ema_updates"])
