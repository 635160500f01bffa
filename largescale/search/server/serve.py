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
    listener, server = listen(config), Server(index, config, read_token(config.token))
    print(f"{len(index):,} pictures: {address_of(listener)} (Ctrl+C stops the server)", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # once it has stopped, uvicorn raises again what has stopped it
        signal.signal(number, lambda *_: None)
    web(server).run(sockets=[listener])
    server.batcher.stop()
    print("stopped", flush=True)


def web(server: Server) -> uvicorn.Server:
    settings = {"log_level": "warning", "lifespan": "off", "server_header": False}
    limits = {"limit_concurrency": CONNECTIONS, "timeout_graceful_shutdown": GRACE_S}
    return uvicorn.Server(uvicorn.Config(server.app, **settings, **limits))  # type: ignore[arg-type]


def read_token(path: Path | None) -> str | None:
    """The secret in a file."""
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"token={path} cannot be read ({error.strerror})") from None
    if len(token) < MIN_TOKEN or not token.isascii():
        raise UserError(f"token={path} holds {len(token)} characters; a secret has {MIN_TOKEN} ASCII characters or more")
    return token


def listen(config: ServeConfig) -> socket.socket:
    """Connections wait from here on."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS)
    except OSError as error:
        raise UserError(f"cannot listen on {config.host}:{config.port} ({error.strerror}); give another host or port") from None
    return listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
