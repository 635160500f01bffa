"""The choice of a loss."""

import inspect
import subprocess
import sys
import typing

import pytest

from largescale import config, losses
from largescale.losses.build import LOSSES, build_loss
from largescale.losses.settings.base import LossSettings
from largescale.losses.settings.choice import LossConfig
from largescale.losses.settings.labels import MetricLearningConfig
from largescale.losses.settings.plug_in import PlugInConfig
from largescale.losses.settings.tuples import ContrastiveConfig
from largescale.settings import Settings, UserError


class _Run(Settings):
    loss: LossConfig = ContrastiveConfig()
    """The loss."""


def test_every_choice_has_a_loss() -> None:
    tagged = typing.get_args(typing.get_args(LossConfig)[0])
    assert {typing.get_args(choice)[0] for choice in tagged} == {*LOSSES, MetricLearningConfig, PlugInConfig}
    assert [typing.get_args(choice)[1].tag for choice in tagged[:-1]] == [
        typing.get_args(choice)[0].model_fields["name"].default for choice in tagged[:-1]
    ]


@pytest.mark.parametrize("choice", LOSSES, ids=lambda choice: choice.model_fields["name"].default)
def test_defaults_are_those_of_the_loss(choice: type[LossSettings]) -> None:
    name = choice.model_fields["name"].default
    settings = config.check(_Run, {"loss": {"name": name}}).loss
    assert type(settings) is choice
    loss = build_loss(settings, num_classes=3, dim=4)
    assert type(loss).__name__ in losses.__all__
    bare = type(loss)(**{"num_classes": 3, "dim": 4} if "num_classes" in inspect.signature(type(loss)).parameters else {})
    for field in choice.model_fields:
        if field not in ("name", "matryoshka", "memory", "memory_weight", "teacher", "teacher_neighbors"):
            assert getattr(loss, field) == getattr(bare, field) == getattr(settings, field)


def test_contrastive_where_none_is_named() -> None:
    assert config.check(_Run, {"loss": {"margin": 0.3}}).loss == ContrastiveConfig(margin=0.3)


def test_faults_are_named() -> None:
    for values, message in (
        ({"name": "tripplet"}, "expected tags: 'contrastive', 'triplet'"),
        ({"margn": 1}, r"unknown setting 'loss\.margn'; did you mean loss\.margin"),
        ({"name": "lrml", "threshold_rule": "flat", "smallest": 0.5}, "threshold_rule=ramp"),
    ):
        with pytest.raises(UserError, match=message):
            config.check(_Run, {"loss": values})


@pytest.mark.slow
def test_settings_need_no_torch() -> None:
    program = "import sys, largescale.losses.settings.choice, largescale.models.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
