"""Passes weights to a mining service and takes its generations where both share no file system, but a place in object storage."""

from largescale.mining.service.exchange import TrainingExchange
from largescale.training.callbacks.base import Callback


class Exchanging(Callback):
    """Comes after what writes the weights; rank 0 alone has an exchange. Training waits for the storage at its end only."""

    def __init__(self, exchange: TrainingExchange | None) -> None:
        self.exchange = exchange

    def start(self) -> None:
        if self.exchange is None:
            return
        if self.trainer.progress.step == 0:
            self.exchange.clear()
        self.exchange.start()

    def finish(self) -> None:
        if self.exchange is not None:
            self.exchange.stop()
