"""Planted keys: what a run is given to reach its storage and its servers is in nothing that it writes or prints."""

import base64
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT, run_alone

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "PLANTED-aws-secret",
    "AWS_SESSION_TOKEN": "PLANTED-aws-token",
    "WANDB_API_KEY": "PLANTED0" * 5,
    "HF_TOKEN": "hf_PLANTED",
}
PASSWORD = "PLANTED-netrc"


class Guarded(SimpleHTTPRequestHandler):
    """A folder behind a password."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != f"Basic {base64.b64encode(f'alice:{PASSWORD}'.encode()).decode()}":
            return self.send_error(401)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
def test_planted_keys_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=8, per_label=4, shards=2, size=48)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(corpus)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login alice password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    for name, value in {**PLANTED, "NETRC": str(tmp_path / "netrc"), "WANDB_MODE": "offline"}.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    settings = [f"corpus=http://127.0.0.1:{server.server_address[1]}", "images.size=48", "loader.workers=0", f"runs={tmp_path}"]
    settings += ["model.backbone=timm:test_resnet", "model.weights=none", f"storage.cache={tmp_path / 'cache'}", "name=planted"]
    settings += ["tuples={per_step: 2, per_epoch: 4}", "mining.negatives=2", "epochs=1", "tracking={wandb: offline, every: 1}"]
    try:
        printed = run_alone(settings)
    finally:
        server.shutdown()
    written = [path for path in (tmp_path / "planted").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)
    secrets = [*PLANTED.values(), PASSWORD, base64.b64encode(f"alice:{PASSWORD}".encode()).decode()]
    assert [secret for secret in secrets if secret in printed] == []
    assert [(path.name, secret) for path in written for secret in secrets if secret.encode() in path.read_bytes()] == []
