"""What every configuration class inherits, and the error that a user reads."""

from pydantic import BaseModel, ConfigDict


class UserError(Exception):
    """Wrong input or state. The message says what was expected, what was found, what follows and what to do."""


class Settings(BaseModel):
    """A frozen group of settings. Unknown keys are errors, and so are numbers that are not finite; the docstring under each field
    is its documentation.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
