"""The workspace of a project: made once, by the library of W&B, from what is written beside a run."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from largescale.commit import read_json
from largescale.tracking.workspace import SECTIONS, publish, write_workspace


class Project(ThreadingHTTPServer):
    """A server that keeps the views that it is sent, as that of W&B does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.views: list[dict[str, Any]] = []


class Answers(BaseHTTPRequestHandler):
    server: Project

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"data": self._answer(asked.get("query", ""), asked.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            self.server.views.append(variables)
            return {"upsertView": {"view": {"id": "1", "name": variables["name"]}, "inserted": True}}
        if "allViews" in query:
            found = [view for view in self.server.views if view["name"] == variables["viewName"]]
            nodes = [{"node": {"id": "1", "displayName": view["displayName"], "spec": view["spec"]}} for view in found]
            return {"project": {"allViews": {"edges": nodes}}}
        return {"viewer": {"id": "1", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}}

    def log_message(self, *about: object) -> None: ...


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    pytest.importorskip("wandb_workspaces")
    server = Project()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_first_run_that_is_online_makes_the_workspace(project: Project, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{project.server_port}/me/retrieval"
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
