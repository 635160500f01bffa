"""The mining service: follows a run directory and publishes generations, beside the processes that train.

Nothing but committed files passes between the two: settings and weights one way, generations the other. Either may be killed and
started again at any moment.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from largescale.commit import read_json, write_json
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.locks import Exclusive, Lease
from largescale.mining.generations import Generation
from largescale.mining.miner import Miner, NotPublishedError
from largescale.mining.service.watch import GenerationTask, RunSettings, Watch, stamp
from largescale.models.build import restored
from largescale.models.weights import Weights, load_weights
from largescale.settings import UserError
from largescale.tracking import TrackedRun, Tracker

log = logging.getLogger(__name__)

POLL_S = 0.2
"""Pause between two looks at the run directory."""
FINISHED_S = 5
"""How often a pass looks whether the run is finished, so that nobody will read what it finds."""
RETRY_S = 10
"""Pause after a generation could not be written."""
OWN = "mining"
"""Folder of the run directory with the service's own record and its lease."""


class _Look(NamedTuple):
    settings: RunSettings | None
    task: GenerationTask | None = None
    last: Path | None = None
    """The weights after the last step of the run."""
    finished: bool = False


class Service:
    """Makes the generations of a run until the run is finished. Every rank has one, and all do the same at the same time.

    Args:
        directory: of the run, which may not have begun yet.
        should_stop: asked by each rank for itself; must not wait for other ranks.
        lease: what decides on rank 0 who may publish; None: a lock in the run directory.
    """

    def __init__(
        self,
        directory: Path,
        world: World,
        should_stop: Callable[[], bool] = lambda: False,
        lease: Exclusive | None = None,
    ) -> None:
        self.directory, self.world, self.should_stop = directory, world, should_stop
        self.config = directory / "config.yaml"
        self._watch: Watch | None = None
        self._read = (0, 0)
        self._lease = lease
        self._tracker: Tracker | None = None
        self._miner: Miner | None = None  # kept: what its index has learnt serves the next generation too
        self._settings: RunSettings | None = None
        self._failures, self._said = 0, ""

    def follow(self) -> str:
        """Serve the run; returns why it is over.

        Raises:
            UserError: the run mines by itself, or its corpus is not the one that its weights were trained on.
        """
        while not self.world.any(self.should_stop()):
            look = self.world.decide(self._look)
            if look.finished:
                return self._end("the run is finished")
            if look.settings is None or look.task is None or not self._serve(look, look.settings, look.task):
                time.sleep(POLL_S)
        return self._end("asked to stop; the same command goes on")

    def _look(self) -> _Look:
        """What there is to do, as rank 0 sees it. Settings that changed because the run was continued are read again."""
        if not self.config.exists():
            return self._idle(f"waiting for {self.config}: the run has not begun", None)
        if self._watch is None or stamp(self.config) != self._read:
            self._read = stamp(self.config)
            self._watch = Watch(self.directory, RunSettings.read(self.directory))
        watch = self._watch
        if watch.finished:
            return _Look(watch.settings, finished=True)
        self._lease = self._lease or Lease(self.directory / OWN / "lease")
        holder = self._lease.acquire()
        if holder:
            return self._idle(f"{self.directory} is served by {holder}: waiting to take over when that ends", watch.settings)
        task = watch.next()
        return _Look(watch.settings, task, watch.last) if task else self._idle("waiting for new weights", watch.settings)

    def _idle(self, text: str, settings: RunSettings | None) -> _Look:
        if text != self._said:
            log.info("%s", text)
        self._said = text
        return _Look(settings)

    def _serve(self, look: _Look, settings: RunSettings, task: GenerationTask) -> bool:
        """Make a generation; whether it was published."""
        loaded = self.world.decide(lambda: self._load(task))
        if loaded is None:
            return False
        about, corpus = loaded.metadata, settings.open()
        if about["corpus"] != corpus.manifest.fingerprint:
            raise UserError(
                f"{task.weights} was trained on the corpus {about['corpus']}, {corpus.manifest.storage.location} is now the "
                f"corpus {corpus.manifest.fingerprint}: its image ids would name other images; bring the corpus back, or start a "
                "new run"
            )
        network = restored(loaded, str(task.weights)).to(self.world.device)
        if self._miner is None or settings != self._settings:
            self._miner, self._settings = self._build_miner(settings, corpus, look.last), settings
        try:
            generation = self._miner.run(network, task.epoch, task.step, settings.plan(corpus, task.epoch))
        except NotPublishedError as error:
            self._failures += 1
            self._log(settings, task, {"mining/not_published": self._failures, "error": str(error)})
            self._pause(RETRY_S)
            return False
        if generation is not None:
            self._report(settings, task, generation)
        return True

    def _build_miner(self, settings: RunSettings, corpus: Corpus, last: Path | None) -> Miner:
        usual = settings.images, settings.mining.batch_size, settings.loader, settings.precision
        embedder = Embedder.in_world(self.world, *usual, should_stop=_Ending(self.should_stop, last))
        return Miner(
            settings.mining,
            corpus,
            self.world,
            embedder,
            self.directory,
            seed=settings.seed,
            bad_images=settings.bad_images,
        )

    def _load(self, task: GenerationTask) -> Weights | None:
        """The weights, read once and sent to every rank; None for a file that is not whole, or that training has removed."""
        try:
            return load_weights(task.weights)
        except UserError as error:
            log.warning("left out: %s", error)
            assert self._watch is not None
            self._watch.leave_out(task.weights)
            return None

    def _report(self, settings: RunSettings, task: GenerationTask, generation: Generation) -> None:
        behind = self.world.decide(lambda: time.time() - stamp(task.weights)[0] / 1e9)
        about = {"mining/epoch": task.epoch, "mining/refresh_seconds": behind}
        self._log(settings, task, about | {f"mining/{name}": value for name, value in generation.statistics.items()})
        if self._watch is not None:
            self._watch.finish(task)

    def _log(self, settings: RunSettings, task: GenerationTask, values: Mapping[str, Any]) -> None:
        if self._tracker is None:
            self._tracker = _open_tracker(settings, self.directory / OWN, self.world)
        line = self._tracker.log(task.step, task.epoch, values)
        if self.world.is_first:
            told = line.get("error") or f"{line['mining/seconds']:.1f} s, of which {line['mining/seconds_embed']:.1f} s embedding"
            log.info("epoch %d from the weights of step %d: %s", task.epoch, task.step, told)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.world.decide(lambda: time.monotonic() < end) and not self.world.any(self.should_stop()):
            time.sleep(POLL_S)

    def _end(self, reason: str) -> str:
        if self._tracker is not None:
            self._tracker.close()
        return reason


class _Ending:
    """Whether a pass should end: the service was told to stop, or the run is finished."""

    def __init__(self, should_stop: Callable[[], bool], last: Path | None) -> None:
        self.should_stop, self.last = should_stop, last
        self.next, self.finished = time.monotonic() + FINISHED_S, False

    def __call__(self) -> bool:
        if self.last is not None and time.monotonic() > self.next:
            self.next, self.finished = time.monotonic() + FINISHED_S, self.last.exists()
        return self.finished or self.should_stop()


def _open_tracker(settings: RunSettings, directory: Path, world: World) -> Tracker:
    """The service's own record, continued behind its last whole line, and its own W&B run."""
    group = settings.tracking.group or settings.name
    job = TrackedRun(directory, settings.model_dump(mode="json"), f"{settings.name}-mining", group, "mining")
    tracker = Tracker(settings.tracking, job, world)
    if world.is_first:
        directory.mkdir(parents=True, exist_ok=True)
        record, state = directory / "log.jsonl", directory / "tracking.json"
        kept = read_json(state) if state.exists() else {}
        whole = record.read_bytes().rfind(b"\n") + 1 if record.exists() else 0
        tracker.open(kept | {"position": whole})
        write_json(state, tracker.state())
    return tracker
