"""Runs the server until it is told to stop; requests that have begun are answered."""

import signal
import socket
from pathlib import Path

import uvicorn

from largescale.search.index import Index
from largescale.search.server.app import Server
from largescale.search.server.config import ServeConfig
from largescale.settings import UserError

GRACE_S = 30
"""For requests that have begun when the server is stopped."""
CONNECTIONS = 1000
MIN_TOKEN = 16


def serve(index: Index, config: ServeConfig) -> None:
    """
    Raises:
        UserError: the address is taken, or the token is none.
    """
    token = None if config.token is None else read_token(config.token)
    listener = _listen(config)
    server = Server(index, config, token)
    settings = uvicorn.Config(
        server.app,  # type: ignore[arg-type]
        log_level="warning",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        lifespan="off",
    )
    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    print(f"{len(index):,} pictures: http://{address}:{port}/ (Ctrl+C stops the server)", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # once it has stopped, uvicorn raises again what has stopped it
        signal.signal(number, lambda *_: None)
    uvicorn.Server(settings).run(sockets=[listener])
    server.batcher.stop()
    print("stopped", flush=True)


def read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"token={path} cannot be read ({error.strerror})") from None
    if len(token) < MIN_TOKEN or not token.isascii():
        raise UserError(f"token={path} holds {len(token)} characters; a secret has {MIN_TOKEN} ASCII characters or more")
    return token


def _listen(config: ServeConfig) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS)  # who asks before the server is ready waits
    except OSError as error:
        raise UserError(f"cannot listen on {config.host}:{config.port} ({error.strerror}); give another host or port") from None
    return listener
