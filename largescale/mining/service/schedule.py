"""What a mining service does next. Pure functions of what the run directory holds."""

from collections.abc import Callable

Wait = str | float


def epochs_to_mine(step: int, steps: int, epochs: int, wait: Wait, pace: int, awaited: Callable[[int], bool]) -> list[int]:
    """The epochs that need negatives from the weights of a step, the most urgent first.

    Args:
        step: of the weights.
        steps: of an epoch.
        epochs: of the run.
        wait: `mining.wait`.
        pace: steps that training takes while one generation is made: an epoch that begins sooner would not see it.
        awaited: whether training is about to begin this epoch and has nothing for it.
    """
    epoch, done = divmod(step, steps)
    begins = done == 0
    if wait == "always":
        found = [epoch] if begins else []
    else:
        found = [epoch] if wait != "never" and begins and awaited(epoch) else []
        found.append(min((step + pace) // steps + 1, max(epochs - 1, epoch + 1)))  # a slow pass may have been an exception
    return [number for number in found if number < epochs]
