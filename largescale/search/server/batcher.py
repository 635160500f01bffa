"""One thread that describes and searches what many clients ask at once: while it computes, the next requests gather.

n pictures, D dimensions.
"""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from largescale.program.running import fault_of_place
from largescale.search.find import Options
from largescale.search.index import Box, Index
from largescale.search.segment import table_of
from largescale.search.source import DescribedPictures, describe_pictures, thumbnail
from largescale.search.verify import Sought
from largescale.search.view import IndexView
from largescale.search.writer import writing
from largescale.settings import UserError

AT_ONCE, WAITING = 64, 512
"""Pictures that are described together, and requests that may wait."""
LOCK_S = 10.0
"""How long an addition waits for another process that changes the index."""


class RequestError(UserError):
    """A request that cannot be answered, and its HTTP status; that of other errors of a user, such as a removed index, is 503."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class PictureRequest:
    """A request: its pictures are described first."""

    pictures: Sequence[bytes] = ()
    box: Box | None = None
    future: "Future[Any]" = field(default_factory=Future)


@dataclass(frozen=True)
class Embed(PictureRequest):
    """Asks for rows `(n, D)`."""


@dataclass(frozen=True)
class SearchRequest(PictureRequest):
    """Asks for hits."""

    key: str | None = None
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Add(PictureRequest):
    """Asks that the (only) picture is kept; answered with the number of rows when it is on disk."""

    key: str = ""
    label: str | None = None


Addition = tuple[Add, DescribedPictures]


class Batcher:
    """
    Args:
        index: with its model; nobody else uses it.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.batches, self.pictures, self.seconds = 0, 0, 0.0
        self._queue: queue.Queue[PictureRequest | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def submit(self, job: PictureRequest) -> "Future[Any]":
        """
        Raises:
            RequestError: too many requests wait.
        """
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise RequestError(503, f"{WAITING} requests are waiting already; ask again in a moment") from None
        return job.future

    def stop(self) -> None:
        """What waits is answered first."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        stopped = False
        while not stopped:
            jobs = self._gather()
            stopped = jobs[-1] is None
            todo = [job for job in jobs if job is not None and job.future.set_running_or_notify_cancel()]
            start = time.perf_counter()
            self._try(todo)
            self.batches, self.seconds = self.batches + bool(todo), self.seconds + time.perf_counter() - start
            self.pictures += sum(len(job.pictures) for job in todo)

    def _try(self, jobs: Sequence[PictureRequest]) -> None:
        """A request on which all of them fail does so alone."""
        try:
            self._answer(jobs)
        except Exception as error:
            left = [job for job in jobs if not job.future.done()]
            for job in left:
                self._try([job]) if len(left) > 1 else fail(job, error)

    def _gather(self) -> list[PictureRequest | None]:
        """All that wait, up to a batch; at least one."""
        jobs = [self._queue.get()]
        while jobs[-1] is not None and sum(len(job.pictures) for job in jobs if job is not None) < AT_ONCE:
            try:
                jobs.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return jobs

    def _answer(self, jobs: Sequence[PictureRequest]) -> None:
        self.index.refresh()
        described = self._describe(jobs)
        found = [(job, of_job) for job, of_job in zip(jobs, described, strict=True) if not job.future.done()]
        for job, of_job in found:
            if isinstance(job, Embed):
                job.future.set_result(of_job.rows)
        self._search([(job, of_job.rows) for job, of_job in found if isinstance(job, SearchRequest)])
        self._add([(job, of_job) for job, of_job in found if isinstance(job, Add)])

    def _describe(self, jobs: Sequence[PictureRequest]) -> list[DescribedPictures]:
        """The pictures of each job, described together; a job with one that cannot be used fails."""
        assert self.index.model is not None
        pictures = [picture for job in jobs for picture in job.pictures]
        boxes = [job.box if job.pictures else None for job in jobs for _ in job.pictures]
        found = describe_pictures(self.index.model, pictures, boxes if any(boxes) else None) if pictures else None
        parts, end = list[DescribedPictures](), 0
        for job in jobs:
            start, end = end, end + len(job.pictures)
            parts.append(_part(found, start, end))
            if parts[-1].faults:
                fail(job, RequestError(422, f"the picture cannot be used: {next(iter(parts[-1].faults.values()))}"))
        return parts

    def _search(self, found: Sequence[tuple[SearchRequest, np.ndarray]]) -> None:
        """Those that ask alike are searched together; one whose pictures are compared, by itself."""
        alike: dict[tuple[Options, int], list[tuple[SearchRequest, np.ndarray, int]]] = defaultdict(list)
        for number, (job, rows) in enumerate(found):
            try:
                query, own = (self.index.mean(rows), [-1]) if job.key is None else self.index.row(job.key, job.box)
                alike[job.options, number if job.options.verify else -1].append((job, query[0], int(own[0])))
            except UserError as error:
                there = job.key is None or self.index.view.find([job.key])[0] >= 0
                fail(job, RequestError(422 if there else 404, str(error)))
        for (options, _), asked in alike.items():
            jobs, queries, of_index = zip(*asked, strict=True)
            sought = [Sought(job.pictures, job.box) for job in jobs]
            try:
                of_each = self.index.search_rows(np.stack(queries), options, np.array(of_index), sought)
            except UserError as error:
                fail_all(jobs, RequestError(422, str(error)))
            else:
                for job, hits in zip(jobs, of_each, strict=True):
                    job.future.set_result(hits)

    def _add(self, found: Sequence[Addition]) -> None:
        """All of them in one commit, but for keys that are taken."""
        jobs = [job for job, _ in found]
        if not jobs:
            return
        try:
            with writing(self.index.folder, LOCK_S) as writer:
                new = _new(found, writer.view)
                if new:
                    thumbnails = [thumbnail(job.pictures[0], writer.view.manifest.thumbnails) for job, _ in new]
                    writer.append(np.concatenate([of_job.rows for _, of_job in new]), _table(new, thumbnails))
                self.index.view = writer.view
        except (UserError, OSError) as error:
            sentence = str(error) if isinstance(error, UserError) else fault_of_place(error)
            if sentence is None:
                raise
            fail_all(jobs, RequestError(503, sentence))
        else:
            for job, _ in new:
                job.future.set_result(len(self.index))


def _new(found: Sequence[Addition], view: IndexView) -> list[Addition]:
    """Those whose keys are free; the others fail."""
    new, there = dict[str, Addition](), view.find([job.key for job, _ in found])
    for (job, of_job), id in zip(found, there.tolist(), strict=True):
        if id >= 0 or job.key in new:
            fail(job, RequestError(409, f"{job.key!r} is in the index already; remove it first, or give another key"))
        else:
            new[job.key] = job, of_job
    return list(new.values())


def _table(new: Sequence[Addition], thumbnails: Sequence[bytes | None]) -> pa.Table:
    columns = {
        "key": [job.key for job, _ in new],
        "label": [job.label for job, _ in new],
        "size": [len(job.pictures[0]) for job, _ in new],
        "width": [of_job.width[0] for _, of_job in new],
        "height": [of_job.height[0] for _, of_job in new],
        "thumbnail": thumbnails,
    }
    return table_of(columns)


def _part(found: DescribedPictures | None, start: int, end: int) -> DescribedPictures:
    """What became of some of the pictures, their places counted anew."""
    if found is None:
        return DescribedPictures(np.empty((0, 0), np.float32), {}, np.empty(0, int), np.empty(0, int))
    faults = {place - start: why for place, why in found.faults.items() if start <= place < end}
    return DescribedPictures(found.rows[start:end], faults, found.width[start:end], found.height[start:end])


def fail_all(jobs: Sequence[PictureRequest], error: Exception) -> None:
    for job in jobs:
        fail(job, error)


def fail(job: PictureRequest, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)
