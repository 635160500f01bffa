import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from largescale.corpus import config
from largescale.settings import Settings


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (config.AugmentConfig, {"crop_scale": (0.9, 0.2)}, "leaves no crop to draw"),
        (config.AugmentConfig, {"crop_scale": (0.5, 1.5)}, "leaves no crop to draw"),
        (config.AugmentConfig, {"crop_ratio": (2, 1)}, "leaves no crop to draw"),
        (config.TuplePlanConfig, {"per_epoch": 3, "per_step": 5}, "an epoch would have no step"),
        (config.LoaderConfig, {"workers": -1}, "0 or more, or auto"),
        (config.LabelPlanConfig, {"images_per_class": 0}, "greater than 0"),
    ],
)
def test_contradictions(settings: type[Settings], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**values)


@pytest.mark.slow
def test_settings_need_no_torch() -> None:
    program = "import sys, largescale.corpus.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
