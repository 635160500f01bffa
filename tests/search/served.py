"""A server that runs in a thread of the test, on a real socket, and what its clients send."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from largescale.search.index import Index
from largescale.search.server.app import Server
from largescale.search.server.config import ServeConfig
from largescale.search.server.serve import address_of, listen, read_token, web


@contextmanager
def serving(index: Index, config: ServeConfig) -> Iterator[str]:
    """Its address."""
    listener, server = listen(config), Server(index, config, read_token(config.token))
    running = web(server)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield address_of(listener)
    finally:
        running.should_exit = True
        thread.join()
        server.batcher.stop()


def multipart(name: str, data: bytes) -> tuple[bytes, dict[str, str]]:
    head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'
    return head.encode() + data + b"\r\n--frontier--\r\n", {"Content-Type": "multipart/form-data; boundary=frontier"}


def ask(address: str, path: str, name: str, picture: Path) -> dict:
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=60)
    connection.request("POST", path, *multipart(name, picture.read_bytes()))
    answer = connection.getresponse()
    value = json.loads(answer.read())
    assert answer.status == 200, value
    return value
