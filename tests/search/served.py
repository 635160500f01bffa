"""A server that runs in a thread of the test, on a real socket."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
