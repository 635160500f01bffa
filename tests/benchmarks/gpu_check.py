"""What one GPU does with this project, in at most 8 minutes: `make gpu-check`, from a checkout, with torch 2.11 or newer.

The table is printed row by row and written to `gpu-check.md`. Each part is a process of its own with a time of its own: what is
not done by then is a row that says so, and the other parts go on. A part needs what it imports and nothing else. `--device cpu`
runs every part at a small size, to see that it works.
"""

import argparse
import importlib
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch

from tests.benchmarks.gpu.measure import FULL, SMALL, Place, Row, name_of
from tests.benchmarks.gpu.older_torch import rename

TOTAL_S = 480
CONTEXT = multiprocessing.get_context("forkserver")


class Part(NamedTuple):
    function: str
    """In a module below `tests.benchmarks`, which only the process of the part imports."""
    limit_s: int


PARTS = {
    "world": Part("gpu.agreement.world_of_one", 30),
    "cpu": Part("gpu.agreement.with_cpu", 70),
    "search": Part("gpu.searches.by_torch", 60),
    "faiss": Part("gpu.searches.by_faiss", 45),
    "embedding": Part("gpu.passes.eager", 45),
    "training": Part("gpu.steps.eager", 55),
    "compiled-embedding": Part("gpu.passes.compiled", 70),
    "compiled-training": Part("gpu.steps.compiled", 95),
}
"""10 s are left for the start and the end of the program."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts; none: all")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu runs every part at a small size")
    CONTEXT.set_forkserver_preload(["torch"])
    with tempfile.TemporaryDirectory() as folder, options.out.open("w") as file:
        place = Place(torch.device(options.device), FULL if options.device == "cuda" else SMALL, Path(folder))
        for line in _lines(options.parts or list(PARTS), place):
            print(line, flush=True)
            print(line, file=file, flush=True)


def _lines(parts: list[str], place: Place) -> Iterator[str]:
    small = "" if place.size is FULL else "; at a small size: the parts work, their numbers say nothing"
    yield f"{name_of(place.device)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}{small}"
    yield from ("", "| what | found | goal | |", "|---|---|---|---|")
    for part in parts:
        for row in rows_of(part, PARTS[part], place):
            mark = {True: "ok", False: "missed", None: ""}[row.ok]
            yield f"| {row.what} | {row.found} | {row.goal} | {mark} |"


def rows_of(name: str, part: Part, place: Place) -> Iterator[Row]:
    """What a process of its own finds within its time."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(part.function, place, writer))
    end = time.monotonic() + part.limit_s
    process.start()
    writer.close()
    try:
        while reader.poll(max(0.0, end - time.monotonic())):
            row = reader.recv()
            if row is None:
                process.join(max(0.0, end - time.monotonic()))
                return
            yield row._replace(what=row.what or name)
        yield Row(name, f"no time: its {part.limit_s} s are over", ok=False)
    except EOFError:
        process.join()
        yield Row(name, f"its process ended with status {process.exitcode}", ok=False)
    finally:
        _end(process)


def _end(process: BaseProcess) -> None:
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # and what it has started
    process.kill()
    process.join()


def _work(function: str, place: Place, writer: Connection) -> None:
    """The process of a part: rows as they are found, and None at the end."""
    os.setsid()
    if place.device.type == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    rename()
    module, _, name = function.rpartition(".")
    try:
        for row in getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)(place):
            writer.send(row)
    except ModuleNotFoundError as error:
        writer.send(Row("", f"left out: {error.name} is not installed"))
    except Exception as error:
        traceback.print_exc()
        writer.send(Row("", f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}", ok=False))
    writer.send(None)


if __name__ == "__main__":
    main()
