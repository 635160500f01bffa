"""A callback of the user's own, named in the settings."""

from largescale.program.plugins import arguments_of, find
from largescale.training.callbacks.base import Callback
from largescale.training.settings.config import OwnCallbackConfig


def own_callback(config: OwnCallbackConfig) -> Callback:
    """The callback of that name, with its settings checked like ours.

    Raises:
        UserError: it cannot be imported, is no `Callback`, or does not take these settings.
    """
    cls = find(config.name, "largescale.callbacks", (Callback,))
    return cls(**arguments_of(cls, config.model_extra or {}))
