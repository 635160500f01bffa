"""A real HTTP server over a folder, whose answers can be spoilt."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer(ThreadingHTTPServer):
    """Counts the requests of each file; `faults[name]` spoils its next answers, in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.requests: Counter[str] = Counter()
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.sent = 0
        """Bytes of answers without end."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.requests[name] += 1
        fault = self.server.faults[name].pop(0) if self.server.faults[name] else None
        if fault is None:
            return super().do_GET()
        if fault == "503":
            return self.send_error(503)
        if fault == "endless":
            return self._send_without_end()
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) // 2 if fault == "short" else len(content)))
        self.end_headers()
        half = content[: len(content) // 2]
        if fault == "corrupt":
            self.wfile.write(half + bytes(len(content) - len(half)))
        else:
            self.wfile.write(half)
        if fault == "stalled":
            self.wfile.flush()
            time.sleep(30)

    def _send_without_end(self) -> None:
        """64 MiB, without a length, or until the other side has had enough."""
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            for _ in range(1024):
                self.wfile.write(bytes(1 << 16))
                self.server.sent += 1 << 16

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[FileServer]:
    with FileServer(folder) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
