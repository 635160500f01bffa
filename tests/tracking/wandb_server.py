"""A stand-in for the server of W&B: takes runs, their lines and files, and views of a project, and keeps them."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

PROJECT = {"id": "1", "name": "retrieval", "entity": {"id": "1", "name": "me"}}
VIEWER = {"id": "1", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}


@dataclass
class Run:
    """What was sent of one run."""

    about: dict[str, Any] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    ended: int = 0

    def bucket(self, name: str) -> dict[str, Any]:
        last = [json.dumps(line) for line in self.lines[-1:]]
        about = {"id": name, "name": name, "displayName": self.about.get("displayName"), "config": self.about.get("config", "{}")}
        counts = {"historyLineCount": len(self.lines), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps(last), "eventsTail": "[]", "summaryMetrics": json.dumps(self.summary)}
        return {**about, **counts, **tails, "tags": [], "wandbConfig": '{"t": 1}', "project": PROJECT}


class WandbServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.views: list[dict[str, Any]] = []
        self.runs: dict[str, Run] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, asked: dict[str, Any]) -> dict[str, Any]:
        """To a query of GraphQL."""
        if "upsertView" in query:
            self.views.append(asked)
            return {"upsertView": {"view": {"id": "1", "name": asked["name"]}, "inserted": True}}
        if "allViews" in query:
            found = [view for view in self.views if view["name"] == asked["viewName"]]
            nodes = [{"node": {"id": "1", "displayName": view["displayName"], "spec": view["spec"]}} for view in found]
            return {"project": {"allViews": {"edges": nodes}}}
        if "RunResumeStatus" in query:
            there = self.runs.get(asked["name"])
            return {"model": {**PROJECT, "bucket": there and there.bucket(asked["name"])}}
        if "upsertBucket" in query:
            run = self.runs.setdefault(asked["name"], Run())
            run.about |= {key: value for key, value in asked.items() if value is not None}
            return {"upsertBucket": {"bucket": run.bucket(asked["name"]), "inserted": not run.lines}}
        if "createArtifact" in query:
            return {"createArtifact": {"artifact": {"id": "1", "state": "COMMITTED", "artifactSequence": {}}}}
        if "createRunFiles" in query:
            places = [{"name": name, "uploadUrl": f"{self.address}/put/{asked['run']}/{name}"} for name in asked["files"]]
            return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": places}}
        return {"viewer": VIEWER, "serverInfo": {"features": []}}

    def take(self, name: str, sent: dict[str, Any]) -> None:
        """A piece of a run's stream: lines from a place on."""
        run, files = self.runs[name], sent.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            start = history["offset"]
            assert start <= len(run.lines)
            run.lines[start : start + len(history["content"])] = map(json.loads, history["content"])
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        run.ended += bool(sent.get("complete"))


class Answers(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        *_, before, last = ["", *self.path.split("/")]
        answer: dict[str, Any] = {}
        if last == "graphql":
            asked = json.loads(body)
            answer = {"data": self.server.answer(asked.get("query", ""), asked.get("variables") or {})}
        elif last == "file_stream":
            self.server.take(before, json.loads(body))
        elif self.command == "PUT":
            _, _, run, name = self.path.split("/", 3)
            self.server.runs[run].files.add(name)
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, *about: object) -> None: ...


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that W&B's programs and library ask in place of their own."""
    server = WandbServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield server
    server.shutdown()
    server.server_close()
