"""A proxy before a server that cuts, delays, repeats or falsifies what comes back: what is read is right, or an error says so.

It works on the bytes of a connection and knows nothing of HTTP or S3: lengths, names and headers are hit as well as contents.
"""

import os
import random
import shutil
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import fsspec
from moto.server import ThreadedMotoServer

from largescale.corpus.config import StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.storage import storage
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.corpus.servers import serve

FAULTS = ("none", "none", "cut", "delayed", "repeated", "falsified")
PIECE = 2048


class Proxy(socketserver.ThreadingTCPServer):
    """Each connection draws what is done to its answers, and where."""

    daemon_threads, allow_reuse_address, block_on_close = True, True, False

    def __init__(self, host: str, port: int, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.upstream, self.draw, self.counts = (host, port), random.Random(seed), Counter[str]()
        self.port: int = self.server_address[1]


class _Connection(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        fault, at = self.server.draw.choice(FAULTS), self.server.draw.randrange(12_000)
        self.server.counts[fault] += 1
        with suppress(OSError), socket.create_connection(self.server.upstream) as up:
            threading.Thread(target=_forward, args=(self.request, up), daemon=True).start()
            self._answer(up, fault, at)

    def _answer(self, up: socket.socket, fault: str, at: int) -> None:
        sent = 0
        while piece := bytearray(up.recv(PIECE)):
            here = sent <= at < sent + len(piece)
            sent += len(piece)
            if here and fault == "falsified":
                piece[at - sent] ^= 1 << at % 8
            if here and fault == "delayed":
                time.sleep(0.3)
            if here and fault == "cut":
                self.request.sendall(piece[: at % len(piece)])
                return
            self.request.sendall(piece * (2 if here and fault == "repeated" else 1))


def _forward(down: socket.socket, up: socket.socket) -> None:
    with suppress(OSError):
        while piece := down.recv(PIECE):
            up.sendall(piece)
        up.shutdown(socket.SHUT_WR)


@contextmanager
def before(host: str, port: int, seed: int = 0) -> Iterator[Proxy]:
    """A running proxy; pauses between attempts are short meanwhile."""
    pause, storage.FIRST_PAUSE_S = storage.FIRST_PAUSE_S, 0.01
    with Proxy(host, port, seed) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            storage.FIRST_PAUSE_S = pause


def read_through(url: str, right: list[bytes], cache: Path, reads: int) -> Counter[str]:
    """Readings of a corpus, each with an empty cache: right, refused with a sentence, altered, or ended in a traceback."""
    found: Counter[str] = Counter()
    for _ in range(reads):
        shutil.rmtree(cache, ignore_errors=True)
        found[_outcome(url, right, cache)] += 1
        assert not list(cache.rglob("*.partial"))
    return found


def _outcome(url: str, right: list[bytes], cache: Path) -> str:
    try:
        corpus = Corpus.open(url, StorageConfig(cache=cache, attempts=4))
        return "right" if corpus.read(range(len(corpus.manifest))) == right else "altered"
    except UserError:
        return "refused"
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return "traceback"


def table(found: dict[str, tuple[Counter[str], Counter[str]]]) -> str:
    names, outcomes = FAULTS[1:], ("right", "refused", "altered", "traceback")
    numbers = {server: [*(faults[name] for name in names), *(of[x] for x in outcomes)] for server, (faults, of) in found.items()}
    lines = [f"| {server} | " + " | ".join(map(str, row)) + " |" for server, row in numbers.items()]
    head = ["| server | connections left alone | " + " | ".join([*names[1:], *outcomes]) + " |", "|---|" + "---:|" * 9]
    return "\n".join([*head, *lines])


def everything(folder: Path, reads: int) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Connections by fault, and readings by outcome, of an HTTP server and of S3."""
    corpus = make_corpus(folder / "corpus", labels=4, per_label=3, shards=3, size=32)
    right = Corpus.open(str(corpus)).read(range(12))
    found = {}
    with serve(corpus) as server, before("127.0.0.1", server.server_address[1]) as proxy:
        found["HTTP"] = (proxy.counts, read_through(f"http://127.0.0.1:{proxy.port}", right, folder / "cache", reads))
    with bucket(corpus) as (host, port), before(host, port) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        found["S3"] = (proxy.counts, read_through("s3://photographs/small", right, folder / "cache", reads))
    return found


@contextmanager
def bucket(corpus: Path) -> Iterator[tuple[str, int]]:
    """An S3 server with the files of a corpus; the environment is put back."""
    kept, server = dict(os.environ), ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="photographs")
        for path in corpus.iterdir():
            client.upload_file(str(path), "photographs", f"small/{path.name}")
        yield host, port
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(kept)
