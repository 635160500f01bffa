"""A loss of the user's own: named by import path, its settings checked, under our laws."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from largescale import config
from largescale.losses.build import build_loss
from largescale.losses.memory import CrossBatchMemory
from largescale.losses.settings.choice import LossConfig
from largescale.losses.settings.tuples import ContrastiveConfig
from largescale.program import plugins
from largescale.settings import Settings, UserError
from largescale.testing import check_loss
from tests.losses.own import FarthestLoss, GapLoss, first_counts_more, gap_loss

OWN = "tests.losses.own:GapLoss"


class _Run(Settings):
    loss: LossConfig = ContrastiveConfig()
    """The loss."""


def _loss(**values: Any) -> Any:
    return config.check(_Run, {"loss": values}).loss


@pytest.mark.slow
def test_named_by_import_path() -> None:
    settings = _loss(name=OWN, margin=0.3)
    assert (settings.kind, settings.pairs) == ("labels", True)
    loss = build_loss(settings, num_classes=3, dim=4)
    assert isinstance(loss, GapLoss)
    assert (loss.margin, loss.weight) == (0.3, 1.0)
    assert config.check(_Run, settings.model_dump(mode="json") and {"loss": settings.model_dump(mode="json")}).loss == settings
    assert isinstance(build_loss(_loss(name=OWN, margin=0.3, memory=8), 3, 4), CrossBatchMemory)
    tuples = _loss(name="tests.losses.own:FarthestLoss", reduction="sum")
    assert tuples.kind == "tuples"
    assert isinstance(build_loss(tuples, 3, 4), FarthestLoss)


def test_named_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins._entry_points.cache_clear()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("gap", OWN, group)])
    try:
        assert isinstance(build_loss(_loss(name="gap", margin=0.3), 3, 4), GapLoss)
    finally:
        plugins._entry_points.cache_clear()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": OWN, "margin": 1, "margn": 1}, r"loss: GapLoss: unknown setting 'margn'; did you mean margin"),
        ({"name": OWN}, r"margin: Field required"),
        ({"name": OWN, "margin": "wide"}, r"margin: .*number.*found 'wide'"),
        ({"name": "tests.losses.own:Missing"}, r"cannot be imported .*PYTHONPATH"),
        ({"name": "no_such_package:Loss"}, r"cannot be imported .*no_such_package"),
        ({"name": "tests.losses.own:gap_loss"}, r"is no subclass of .*LabelLoss"),
        ({"name": "tests.losses.own:FarthestLoss", "memory": 8}, r"set loss\.memory=0"),
    ],
)
def test_faults_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _loss(**values)


@pytest.mark.slow
def test_laws_of_an_own_loss() -> None:
    check_loss(gap_loss, worlds=(1, 2))


def test_a_broken_law_is_found() -> None:
    with pytest.raises(AssertionError):
        check_loss(first_counts_more, worlds=())
