"""The processes that read and decode: what each of them is given, and that their results fit into shared memory."""

import atexit
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from largescale.corpus.batches.batches import Decoder, Packed
from largescale.corpus.batches.buffers import Buffers, check_shared_memory
from largescale.corpus.batches.grouping import Most, bundles
from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.manifest import Manifest
from largescale.cpu import own_cores
from largescale.processes import end_with_parent, ignore_stop_signals, start_fork_server
from largescale.settings import UserError

PART_BYTES = 64 * 2**20
Part = tuple[np.ndarray, np.ndarray | None]
"""Sorted image ids of one shard, and their boxes."""


class StepReader(Dataset):
    """Ids of a step -> the step. An error that the user must read comes back as a value, without a traceback."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def __getitem__(self, ids: np.ndarray) -> Packed | UserError:
        try:
            return self.decoder.step(ids)
        except UserError as error:
            return error


class PassReader(IterableDataset):
    """The groups of a rank's parts; worker w of W takes every W-th part."""

    def __init__(self, decoder: Decoder, parts: list[Part], batch: int) -> None:
        self.decoder, self.parts, self.batch = decoder, parts, batch

    def __iter__(self) -> Iterator[Packed | UserError]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            for ids, boxes in self.parts[worker::workers]:
                groups = self.decoder.read(ids, boxes, Most(self.batch))
                yield from map(self.decoder.groups, bundles(groups, self.batch))
        except UserError as error:
            yield error


def run_workers(reader: Dataset, loader: LoaderConfig, sampler: Iterable[np.ndarray] | None = None) -> Iterator[Packed]:
    """Results in order. Workers start from a clean process: CUDA, threads and memory of the training process stay out of it."""
    workers = worker_count(loader)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["largescale.corpus.loading"])
    if workers:
        start_fork_server()
    several: dict[str, Any] = {"multiprocessing_context": "forkserver", "prefetch_factor": loader.prefetch} if workers else {}
    results: Iterable[Packed | UserError] = DataLoader(
        reader,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # the default one belongs to the training
        **several,
    )
    try:
        for result in results:
            if isinstance(result, UserError):
                raise result
            yield result
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        raise UserError(f"{error}: killed, most often for lack of memory; lower loader.workers or loader.prefetch") from None


def _begin_worker(_: int) -> None:
    ignore_stop_signals()
    end_with_parent()  # torch looks at the parent process only, which is the fork server


@atexit.register
def _end_workers() -> None:
    """An interrupted loop leaves workers to multiprocessing, which would wait for ever: they ignore its SIGTERM."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def buffers_for(loader: LoaderConfig, size: int) -> Buffers:
    """Slots of `size` bytes: what a worker prefetches, and two that the consumer may hold."""
    return Buffers(worker_count(loader), loader.prefetch + 2, size)


def split(manifest: Manifest, ids: np.ndarray, batch: int) -> list[slice]:
    """Cut sorted ids into parts, each of one shard and of bounded encoded bytes, and enough of them for many workers."""
    length = int(np.clip(len(ids) // 64, 4 * batch, 64 * batch))
    shard = manifest.shard[ids]
    new_shard = np.diff(shard, prepend=-1) != 0
    first = np.flatnonzero(new_shard)[np.cumsum(new_shard) - 1]  # (n,) place of the first image of the same shard
    before = np.cumsum(manifest.size[ids], dtype=np.int64)
    piece = np.maximum((np.arange(len(ids)) - first) // length, (before - before[first]) // PART_BYTES)
    cuts = np.flatnonzero(new_shard | (np.diff(piece, prepend=-1) != 0))
    return [slice(start, stop) for start, stop in zip(cuts.tolist(), np.append(cuts, len(ids))[1:].tolist(), strict=False)]


def worker_count(loader: LoaderConfig) -> int:
    """Loader processes of this rank."""
    return own_cores() if loader.workers == "auto" else loader.workers


def check_loader(manifest: Manifest, images: ImagesConfig, rows: int, loader: LoaderConfig) -> None:
    """Before anything starts: may the loaders of all processes of this node hold steps of `rows` images each?

    Raises:
        UserError: /dev/shm is too small.
    """
    largest = max(int(manifest.width.max(initial=1)), int(manifest.height.max(initial=1)))
    size = images.size or largest
    side = size if images.fit not in (None, "inside") or images.augment else min(size, largest)
    size = worker_count(loader) * (loader.prefetch + 2) * rows * 3 * side**2
    check_shared_memory(size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
