"""What the fork server of `kills` imports once."""

import deepspeed  # noqa: F401

from tests.torture import stages  # noqa: F401
