"""A run in object storage, as far as going on needs it: another machine, whose disk is empty, continues it from there.

Checkpoints and generations are objects, each a tar, so each is there whole or not at all. A checkpoint is sent last: what it
needs, its negatives and the record up to it, is there before.
"""

import tarfile
import tempfile
from pathlib import Path

from largescale.commit import complete_directories, own_paths
from largescale.mining.service.exchange import MEMBER, NEGATIVES, OBJECTS, WEIGHTS, TrainingExchange
from largescale.settings import UserError
from largescale.training.checkpoints.checkpoint import NAME, WEIGHTS_NAME

CHECKPOINTS = "checkpoints"
BEST, LOG = "best.json", "log.jsonl"
KEPT = {
    WEIGHTS: WEIGHTS_NAME,
    NEGATIVES: r"gen-\d{6,}-\d{6,}\.tar|taken-\d{6,}\.json|positives-\d{6,}-\d{6,}\.npy",
    CHECKPOINTS: rf"{NAME}\.tar|best\.json",
}
"""Names that objects of each kind have."""


class RunMirror(TrainingExchange):
    """Sends what a run has written; a thread of one process does it, and training waits for it at its end only."""

    objects = OBJECTS | KEPT
    members = rf"{MEMBER}|progress\.json|part-\d{{5,12}}\.safetensors"

    def sync(self) -> None:
        if not self._is_ours:
            self.claim()
        own = {f"{path.name}.tar": path for path in complete_directories(self.folder / CHECKPOINTS, NAME)}
        there = self._names(CHECKPOINTS)
        new = own.keys() - there
        if new:  # so the record is as long as each of them says, at least
            self._send_what_they_need()
        self._send_weights()  # a whitening comes after the checkpoint
        for name in sorted(new):
            self._pack(own[name], f"{CHECKPOINTS}/{name}")
        self._put_changed(self.folder / CHECKPOINTS / BEST, f"{CHECKPOINTS}/{BEST}")
        for name in there - own.keys() - {BEST}:
            self._remove(f"{CHECKPOINTS}/{name}")

    def restore(self) -> bool:
        """Bring the run to a folder that has no checkpoint; whether there was one to bring."""
        found = sorted(self._names(CHECKPOINTS) - {BEST})
        if not found:
            return False
        for kind in (WEIGHTS, NEGATIVES):
            for name in self._names(kind):
                self._unpack(f"{kind}/{name}") if name.endswith(".tar") else self._get(
                    f"{kind}/{name}", self.folder / kind / name
                )
        for name in (LOG, f"{CHECKPOINTS}/{BEST}"):
            if self._files.exists(f"{self._root}/{name}"):
                self._get(name, self.folder / name)
        for name in found:
            self._unpack(f"{CHECKPOINTS}/{name}")
        return True

    def clear(self) -> None:
        """Remove what a run that nobody continues has left at the URL."""
        super().clear()
        for name in self._names(CHECKPOINTS):
            self._remove(f"{CHECKPOINTS}/{name}")

    def _send_what_they_need(self) -> None:
        generations, there = self._own_generations(), self._names(NEGATIVES)
        for name in sorted(generations.keys() - there):
            self._pack(generations[name], f"{NEGATIVES}/{name}")
        for path in [*self.folder.glob(f"{NEGATIVES}/taken-*.json"), *self.folder.glob(f"{NEGATIVES}/positives-*.npy")]:
            self._put_changed(path, f"{NEGATIVES}/{path.name}")
        for name in (LOG, "config.yaml"):
            self._put_changed(self.folder / name, name)

    def _send_weights(self) -> None:
        weights, there = {path.name: path for path in own_paths(self.folder / WEIGHTS, KEPT[WEIGHTS])}, self._names(WEIGHTS)
        for name in sorted(weights.keys() - there):
            self._put(weights[name], f"{WEIGHTS}/{name}")
        for name in there - weights.keys():
            self._remove(f"{WEIGHTS}/{name}")

    def _pack(self, path: Path, name: str) -> None:
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".mirror-") as packed:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for file in sorted(path.rglob("*")):
                    tar.add(file, str(file.relative_to(path)), recursive=False)
            packed.flush()
            self._put(Path(packed.name), name)

    def _unpack(self, name: str) -> None:
        place = self.folder / name.removesuffix(".tar")
        packed = place.with_name(f".{place.name}.tar")
        self._get(name, packed)
        try:
            self._extract(packed, place)
        except tarfile.TarError as error:
            raise UserError(
                f"{self.url}/{name} is not what a run has put there ({error}); nothing was taken from it: remove it there, and "
                "the same command goes on from an older one"
            ) from None
        finally:
            packed.unlink()
