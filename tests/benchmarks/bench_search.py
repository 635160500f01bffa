"""The index against FAISS's own search of the same rows, what adding costs, and the server against a loop."""

import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import faiss
import numpy as np

import largescale
from largescale.cpu import own_cores
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.search.index import Index
from largescale.search.view import IndexView
from tests.benchmarks.table import Row, both_seconds, in_turns, median_seconds, report
from tests.corpora import encode, photograph

ROWS, DIM, ADDED, K = 1_000_000, 512, 10_000, 20
OPEN_S, MEMORY_MB = 0.2, 100
GROWTH = 1.5
"""Times as long as to ten times fewer rows an addition may take."""
CLIENTS, REQUESTS, PICTURES, ROUNDS = 50, 4, 64, 3
ROOT = Path(__file__).parents[2]


def rows_of(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def make(folder: Path, count: int) -> Index:
    index = Index.create(folder, DIM, factory="exact", thumbnails=0)
    index.add_rows(rows_of(count, 0), [f"picture {i:07d}.jpg" for i in range(count)])
    return index


def anonymous_mb(action: Callable[[], object]) -> float:
    """Most memory, without mapped files, that a call takes beyond what the process had."""
    done, most = threading.Event(), [0]

    def now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], now())

    before, watcher = now(), threading.Thread(target=watch)
    watcher.start()
    action()
    done.set()
    watcher.join()
    return max(0, most[0] - before) / 1024


def queries(index: Index) -> Iterator[Row]:
    view = IndexView.open(index.folder)
    flat = faiss.IndexFlatIP(DIM)
    for segment in view.segments:
        flat.add(segment.rows)
    faiss.omp_set_num_threads(own_cores())
    size = f"{ROWS:,} x {DIM}"
    for count in (1, 64):
        asked = rows_of(count, 1)
        assert np.array_equal(view.nearest(asked, K)[0], flat.search(asked, K)[1])
        for unit, a, b in in_turns(lambda q=asked: view.nearest(q, K), lambda q=asked: flat.search(q, K), ROUNDS):  # type: ignore[misc]
            yield Row(f"{size}: {count} queries, ours, FAISS's own search ({unit})", a, b, 1.2, smaller_is_better=True)
    memory = anonymous_mb(lambda: IndexView.open(index.folder).nearest(rows_of(64, 1), K))
    yield Row(f"{size}: memory beside the rows (MB)", memory, MEMORY_MB, 1, smaller_is_better=True)
    yield Row(f"{size}: opening (s)", median_seconds(lambda: IndexView.open(index.folder)), OPEN_S, 1, smaller_is_better=True)


def additions(index: Index, small: Index) -> Iterator[Row]:
    added = rows_of(ADDED, 2)
    rounds = [(add(index, added), add(small, added)) for _ in range(ROUNDS)]
    for place, count in enumerate((ROWS, ROWS // 10)):
        written = statistics.median(of_round[place][2] for of_round in rounds)
        name = f"{ADDED:,} rows added to {count:,}: bytes written, bytes of the rows"
        yield Row(name, written, added.nbytes, 1.1, smaller_is_better=True)
    for place, unit in enumerate(("s", "CPU s")):
        of_small = statistics.median(less[place] for _, less in rounds)
        of_large = of_small * statistics.median(more[place] / less[place] for more, less in rounds)
        yield Row(f"{ADDED:,} rows: added to {ROWS:,}, to {ROWS // 10:,} ({unit})", of_large, of_small, GROWTH, True)


def add(index: Index, rows: np.ndarray) -> tuple[float, float, int]:
    """Seconds and processor seconds of an addition, and the bytes it writes; the rows are removed again."""
    before, keys = sizes(index.folder), [f"added {i:05d}.jpg" for i in range(len(rows))]
    wall, cpu = both_seconds(lambda: index.add_rows(rows, keys))
    written = sum(size for path, size in sizes(index.folder).items() if before.get(path) != size)
    index.remove(keys)
    return wall, cpu, written


def sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def served(folder: Path) -> Iterator[Row]:
    """Clients that ask at once against describing and searching one picture after the other."""
    network = build_network(ModelConfig(backbone="squeezenet1_1", weights="none"))
    write_folder(folder / "model", Contents(network, DescriptorConfig(size=224, dim=network.dim)), "")
    pictures = []
    (folder / "photos").mkdir()
    for number in range(PICTURES):
        pictures.append(encode(photograph(number, 0, 320, 240)))
        (folder / "photos" / f"{number}.jpg").write_bytes(pictures[-1])
    model = largescale.load(folder / "model")
    index = Index.build(model, folder / "photos", folder / "index", location=str(folder / "model"))
    index.search(pictures[0])
    asked = CLIENTS * REQUESTS

    def loop() -> None:
        for number in range(asked):
            index.search(pictures[number % PICTURES])

    with running(folder / "index") as (address, server):
        ask(address, pictures[0])
        rounds = [(load(address, server, pictures), both_seconds(loop)) for _ in range(ROUNDS)]
    for place, unit in enumerate(("s", "CPU s of the server, of the loop")):
        of_loop = statistics.median(loop[place] for _, loop in rounds)
        of_server = of_loop * statistics.median(server[place] / loop[place] for server, loop in rounds)
        yield Row(f"server, {CLIENTS} clients; a loop (pictures/{unit})", asked / of_server, asked / of_loop, 0.85)
    slowest, turn = (statistics.median(values) for values in zip(*((a[2], b[0] / asked) for a, b in rounds), strict=True))
    yield Row(f"server, {CLIENTS} clients: 95th percentile, {CLIENTS} turns of the loop (s)", slowest, CLIENTS * turn, 2, True)


@contextmanager
def running(index: Path) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and process."""
    command = [sys.executable, ROOT / "launch" / "search.py", "serve", f"index={index}", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        address = next(word for word in server.stdout.readline().split() if word.startswith("http"))
        yield address, server.pid
        server.terminate()


def load(address: str, server: int, pictures: list[bytes]) -> tuple[float, float, float]:
    """Seconds of all requests, those of the server's processors, and the 95th percentile of one."""
    start, spent = time.perf_counter(), processor_seconds(server)
    with ThreadPoolExecutor(CLIENTS) as pool:
        times = list(pool.map(lambda n: ask(address, pictures[n % PICTURES]), range(CLIENTS * REQUESTS)))
    return time.perf_counter() - start, processor_seconds(server) - spent, float(np.quantile(times, 0.95))


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(address: str, picture: bytes) -> float:
    head = b'--frontier\r\nContent-Disposition: form-data; name="pictures"; filename="a.jpg"\r\n\r\n'
    body, kind = head + picture + b"\r\n--frontier--\r\n", {"Content-Type": "multipart/form-data; boundary=frontier"}
    start = time.perf_counter()
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=120)
    connection.request("POST", f"/search?k={K}", body, kind)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    return time.perf_counter() - start


def searched(folder: Path) -> Iterator[Row]:
    index, small = make(folder / "large", ROWS), make(folder / "small", ROWS // 10)
    yield from queries(index)
    yield from additions(index, small)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        report(chain(searched(Path(name)), served(Path(name))))


if __name__ == "__main__":
    main()
