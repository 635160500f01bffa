"""The project's laws, for parts of your own: `check_loss` in a test of yours is what every loss here is tested with."""

from largescale.testing.loss_laws import Case, check_loss

__all__ = ["Case", "check_loss"]
