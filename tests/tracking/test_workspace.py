"""The workspace of a project: made once, by the library of W&B, from what is written beside a run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from largescale.commit import read_json
from largescale.tracking.workspace import SECTIONS, publish, write_workspace
from tests.tracking.wandb_server import WandbServer, serving


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    pytest.importorskip("wandb_workspaces")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    with serving(monkeypatch) as server:
        yield server


@pytest.mark.slow
def test_the_first_run_that_is_online_makes_the_workspace(project: WandbServer, tmp_path: Path) -> None:
    address = f"{project.address}/me/retrieval"
    for name in ("first", "first", "second"):  # a run that goes on, and another of the project
        file = write_workspace(tmp_path / name)
        publish(file, "me", "retrieval", address)
        assert read_json(file)["url"] == f"{address}?nw=largescale"
    (view,) = project.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "retrieval", "largescale")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == list(SECTIONS)
    assert sections[0]["isOpen"]
    overview = [panel["config"] for panel in sections[0]["panels"]]
    assert [(panel["chartTitle"], tuple(panel["metrics"])) for panel in overview] == list(SECTIONS["Overview"].items())
    assert {panel["xAxis"] for panel in overview} == {"step"}


def test_a_server_that_refuses_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_workspace(tmp_path)
    file.write_text("{}")
    publish(file, "me", "retrieval", "http://127.0.0.1:9/me/retrieval")
    assert "the workspace of W&B was not made" in caplog.text
