"""What a run directory says to its mining service: the settings of the run, its weights, and the generation to make next."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import PositiveFloat

from largescale.commit import own_paths, require_sealed
from largescale.config import check, read_yaml
from largescale.corpus.config import BadImagesConfig, ImagesConfig, LabelPlanConfig, LoaderConfig, StorageConfig, TuplePlanConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.default import default_corpus
from largescale.corpus.plan import Tuples, plan_tuples
from largescale.corpus.samplers import plan_askers, steps_of_epoch
from largescale.mining.config import MiningConfig
from largescale.mining.generations import Generations
from largescale.mining.service.schedule import epochs_to_mine
from largescale.names import Location, RunName
from largescale.precision import Precision
from largescale.settings import Settings, UserError
from largescale.tracking import TrackingConfig


class RunSettings(Settings):
    """The settings of a run that mining depends on, under their names in `config.yaml`."""

    name: RunName
    seed: int
    corpus: Location | tuple[Location, ...] | None
    corpus_weights: tuple[PositiveFloat, ...] | None = None
    epochs: int
    storage: StorageConfig
    images: ImagesConfig
    loader: LoaderConfig
    bad_images: BadImagesConfig
    tuples: TuplePlanConfig | None
    batches: LabelPlanConfig | None
    mining: MiningConfig
    tracking: TrackingConfig
    precision: Precision

    @staticmethod
    def read(directory: Path) -> "RunSettings":
        """From the `config.yaml` of a run directory.

        Raises:
            UserError: there is none, or its run does not follow a mining service.
        """
        require_sealed(directory / "config.yaml")
        values = read_yaml(directory / "config.yaml")
        if values.get("mining") is None:
            raise UserError(
                f"{directory} takes random labels into its batches (mining=null): there is nothing to serve; for labels that are "
                "alike, train another run with mining.home=service"
            )
        if values["mining"]["home"] != "service":
            raise UserError(
                f"{directory} mines by itself (mining.home=inline): what a service found would never be read; continue the run "
                "with mining.home=service"
            )
        return check(RunSettings, {name: values[name] for name in RunSettings.model_fields if name in values})

    def open(self) -> Corpus:
        return Corpus.open(self.corpus or default_corpus(), self.storage, self.corpus_weights)

    def plan(self, corpus: Corpus, epoch: int) -> Tuples:
        """The queries of an epoch."""
        if self.tuples is not None:
            return plan_tuples(corpus.manifest, self.tuples, self.seed, epoch)
        assert self.batches is not None
        return plan_askers(corpus.manifest, self.batches, self.seed, epoch)

    def steps(self, corpus: Corpus) -> int:
        """Of an epoch."""
        if self.tuples is not None:
            return len(self.plan(corpus, 0).queries) // self.tuples.per_step
        assert self.batches is not None
        return steps_of_epoch(corpus.manifest, self.batches, self.seed)


@dataclass(frozen=True)
class GenerationTask:
    """A generation to make."""

    epoch: int
    step: int
    weights: Path


class Watch:
    """Looks at a run directory whose settings are known. One rank has it."""

    def __init__(self, directory: Path, settings: RunSettings) -> None:
        self.directory, self.settings = directory, settings
        self.pace = 0
        """Steps that training took while the last generation was made."""
        self._whole: dict[Path, int] = {}
        self._unreadable: dict[Path, tuple[int, int]] = {}

    @cached_property
    def generations(self) -> Generations:
        return Generations(self.directory, self._corpus.manifest.fingerprint)

    @cached_property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.settings.steps(self._corpus)

    @property
    def finished(self) -> bool:
        """Whether the weights after the last step are there."""
        return next(iter(self.weights()), -1) >= self.settings.epochs * self.steps

    @property
    def last(self) -> Path:
        """Where the weights after the last step will be."""
        return self.directory / "weights" / f"step-{self.settings.epochs * self.steps:06d}.safetensors"

    def weights(self) -> dict[int, Path]:
        """The weights files by step, newest first, without those that could not be read and have not changed since."""
        own = own_paths(self.directory / "weights", r"step-\d{6,}\.safetensors")
        files = {int(path.stem.removeprefix("step-")): path for path in own}
        return {step: files[step] for step in sorted(files, reverse=True) if not self._is_unreadable(files[step])}

    def next(self) -> GenerationTask | None:
        """The most urgent generation that is not there."""
        weights, wait = self.weights(), self.settings.mining.wait
        useful = weights if wait == "always" else list(weights)[:1]
        for step in useful:
            for epoch in epochs_to_mine(step, self.steps, self.settings.epochs, wait, self.pace, self._awaited):
                if not self._is_whole(epoch, step):
                    return GenerationTask(epoch, step, weights[step])
        return None

    def leave_out(self, path: Path) -> None:
        """Do not come back to a weights file before it changes."""
        self._unreadable[path] = stamp(path)

    def finish(self, task: GenerationTask) -> None:
        """Note how far training has come since the task began."""
        self.pace = max(next(iter(self.weights()), task.step) - task.step, 0)

    @cached_property
    def _corpus(self) -> Corpus:
        return self.settings.open()

    def _awaited(self, epoch: int) -> bool:
        return self.generations.taken(epoch) is None and self.generations.newest(epoch) is None

    def _is_unreadable(self, path: Path) -> bool:
        return path in self._unreadable and self._unreadable[path] == stamp(path)

    def _is_whole(self, epoch: int, step: int) -> bool:
        """Read again only when something in the directory came or went."""
        path = self.generations.path(epoch, step)
        changed, _ = stamp(path)
        if self._whole.get(path) != changed and self.generations.read(epoch, step) is not None:
            self._whole[path] = changed
        return changed > 0 and self._whole.get(path) == changed


def stamp(path: Path) -> tuple[int, int]:
    """When a file was last changed and its size; zeros where there is none."""
    try:
        return path.stat().st_mtime_ns, path.stat().st_size
    except FileNotFoundError:
        return 0, 0
