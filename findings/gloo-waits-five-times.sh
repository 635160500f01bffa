#!/usr/bin/env bash
# A rank that dies as gloo's ranks meet is waited for five times as long as the timeout says.
#
# Guess: dist.new_group(backend="gloo", timeout=T) ends with an error within T when the other rank dies.
# Found: where that rank has written its address into the store and dies before it has connected, the others try again and again:
#   5 T. Where it dies before it has written it: T. Where it dies later: at once.
# Versions: torch 2.14.1 (CPU), 2026-11-29. Needs Linux.
# Output seen:
#   died after 1.25 ms: 10.0 s, Connect timeout
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" torch==2.14.1 numpy==2.4.6
PYTHONPATH=$packages python3 - <<'PYTHON'
import os
import signal
import socket
import threading
import time
from datetime import timedelta

import torch.distributed as dist

TIMEOUT_S = 2


def member(rank: int, port: int, delay: float, answer: int) -> None:
    timeout = timedelta(seconds=TIMEOUT_S)
    store = dist.TCPStore("127.0.0.1", port, 2, rank == 0, timeout=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timeout)
    dist.barrier()
    if rank == 1:
        threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGKILL))).start()
    start, error = time.monotonic(), ""
    try:
        dist.new_group(backend="gloo", timeout=timeout)
    except Exception as found:
        error = str(found)
    if rank == 0:
        os.write(answer, f"{time.monotonic() - start} {'Connect timeout' * ('Connect timeout' in error)}".encode())
    os._exit(0)


for number in range(400):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    read, write = os.pipe()
    children = []
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            member(rank, port, number % 20 / 4000, write)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    seconds, _, error = os.read(read, 100).decode().partition(" ")
    if error:
        print(f"died after {number % 20 / 4:g} ms: {float(seconds):.1f} s, {error}")
        assert 4.5 * TIMEOUT_S < float(seconds) < 6 * TIMEOUT_S
        print("as stated")
        break
else:
    raise AssertionError("no rank died between its address and its connection")
PYTHON
