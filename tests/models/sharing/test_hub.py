"""The hub's interface, spoken by a server on this machine."""

import base64
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

import largescale
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.models.sharing.hub import push
from largescale.settings import UserError
from tests.evaluation.small import tiny_network

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Models as `{name: {file: bytes}}`, with the calls that huggingface_hub makes to push and to fetch one."""

    models: dict[str, dict[str, bytes]]

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values.get('organization') or 'user'}/{values['name']}"
            self.models.setdefault(name, {})
            self._json({"url": f"{constants.ENDPOINT}/{name}", "id": name})
        elif "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self._json({"files": files})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.models[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = f"{constants.ENDPOINT}/{name}/commit/{COMMIT}"
            self._json({"success": True, "commitUrl": address, "commitOid": COMMIT, "pullRequestUrl": None})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.models.get(name)
        if files is None or (parts[0] != "api" and parts[-1] not in files):
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif parts[0] != "api":
            data = files[parts[-1]]
            self._send(data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif "tree" in parts:
            self._json([{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files.items()])
        else:
            self._json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}, status)

    def _send(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    handler = type("Served", (Hub,), {"models": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    Thread(target=server.serve_forever, daemon=True).start()
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = tiny_network()
    write_folder(tmp_path / "model", Contents(network, DescriptorConfig(size=48, dim=network.dim)), "# Card\n")
    return tmp_path / "model"


@pytest.mark.slow
def test_what_is_pushed_is_loaded(hub: type[Hub], folder: Path) -> None:
    (folder / "notes.txt").write_text("not for others")
    push(folder, "user/first")
    assert sorted(hub.models["user/first"]) == ["README.md", "config.json", "model.safetensors"]
    assert largescale.load("hub:user/first", "cpu").digest == largescale.load(folder, "cpu").digest


@pytest.mark.slow
def test_what_is_not_there_is_said(hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hub:user/none cannot be fetched: Repository not found; is the name right"):
        largescale.load("hub:user/none")
    with pytest.raises(UserError, match="a model is named USER/NAME"):
        largescale.load("hub:a/b/c")
    with pytest.raises(UserError, match="is no model folder"):
        push(tmp_path, "user/first")


@pytest.mark.slow
def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="cannot be reached and there is no copy on this machine"):
        largescale.load("hub:user/first")
    with pytest.raises(UserError, match="cannot be pushed to hub:user/first: the hub cannot be reached"):
        push(folder, "user/first")
