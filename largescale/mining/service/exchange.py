"""A run directory in object storage: what training and its mining service pass to each other, alike in a folder and at a URL.

An object appears whole or not at all, so each thing is one object: the settings, a weights file, a generation as a tar. Nothing
is ever renamed, and two services that publish the same generation by mistake publish the same bytes: the lease saves work only.
"""

import logging
import re
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fsspec

from largescale.commit import OWNER, committed_directory, committed_file, complete_directories, own_paths, remove_directory
from largescale.corpus.storage.storage import Bound
from largescale.locks import this_process
from largescale.mining.generations import NAME
from largescale.settings import UserError

SYNC_S = 2
"""Pause between two comparisons of the folder with the URL."""
LAST_TRIES = 5
"""Of the last comparison, before a side ends."""
DEAD_S = 30
"""A service whose beat has stood still for so long is dead."""
CONFIG, WEIGHTS, NEGATIVES, OWN = "config.yaml", "weights", "negatives", "mining"
OBJECTS = {
    WEIGHTS: r"step-\d{6,12}\.safetensors",
    NEGATIVES: r"gen-\d{6,12}-\d{6,12}\.tar",
    OWN: r"[a-z]{1,40}(\.[a-z]{1,10})?",
}
"""Names that objects of each kind have: others at the URL are not looked at, and never become paths here."""
MEMBER = r"COMPLETE|generation\.json|index\.npy|(part|stored)-\d{5,12}\.npy"
"""Names of the files of a generation."""
UNKNOWN = "a process that is not known yet"
RECORD = {"log.jsonl", "tracking.json"}
log = logging.getLogger(__name__)


class Exchange:
    """One side of the exchange. One process of training, and one of the service, has it; its thread does the work.

    What cannot be reached now is tried again at the next comparison; neither side waits for the storage.
    """

    objects = OBJECTS
    members = MEMBER
    """Names of the files that a tar may hold."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url.rstrip("/"), folder
        self._files, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._work, daemon=True)
        self._told, self._stamps, self._is_ours = "", dict[str, int](), False
        self._refused: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Compare once more, then end."""
        self._stop.set()
        self._thread.join()

    def sync(self) -> None:
        """Make both alike, as far as this side has to."""
        raise NotImplementedError

    def _work(self) -> None:
        while not self._stop.wait(SYNC_S):
            self._try_sync()
        for _ in range(LAST_TRIES):
            if self._try_sync():
                return
            time.sleep(SYNC_S)

    def _try_sync(self) -> bool:
        try:
            self.sync()
            self._told = ""
        except Exception as error:  # of any storage, each has its own
            if str(error) != self._told:
                log.warning("%s cannot be reached, trying again every %g s: %s", self.url, SYNC_S, error)
            self._told = str(error)
        return not self._told

    def _names(self, kind: str) -> set[str]:
        """Of the objects of a kind."""
        place = f"{self._root}/{kind}"
        found = self._files.ls(place, detail=False) if self._files.exists(place) else []
        names = {name.rsplit("/", 1)[-1] for name in found}
        return {name for name in names if re.fullmatch(self.objects[kind], name)}

    def _put(self, path: Path, name: str) -> None:
        self._files.put_file(str(path), f"{self._root}/{name}")

    def _put_changed(self, path: Path, name: str) -> None:
        """Send a file that changes now and then."""
        if path.exists() and (stamp := path.stat().st_mtime_ns) != self._stamps.get(name):
            self._put(path, name)
            self._stamps[name] = stamp

    def _get(self, name: str, path: Path) -> None:
        place = f"{self._root}/{name}"
        with committed_file(path) as temporary:
            self._files.get_file(place, str(temporary), callback=Bound(self._files.size(place)))

    def _remove(self, name: str) -> None:
        assert self._is_ours or name.startswith(OWN)
        self._files.rm_file(f"{self._root}/{name}")

    def _own_weights(self) -> dict[str, Path]:
        return {path.name: path for path in own_paths(self.folder / WEIGHTS, OBJECTS[WEIGHTS])}

    def _own_generations(self) -> dict[str, Path]:
        """Whole ones, by the names of their objects."""
        return {f"{path.name}.tar": path for path in complete_directories(self.folder / NEGATIVES, NAME)}

    def _fetch_generations(self, names: set[str]) -> None:
        for name in sorted(names - self._refused):
            packed = self.folder / NEGATIVES / f".{name}"
            self._get(f"{NEGATIVES}/{name}", packed)
            try:
                self._extract(packed, packed.with_name(name.removesuffix(".tar")))
            except tarfile.TarError as error:
                log.warning("%s/%s/%s is no generation (%s): it is not taken", self.url, NEGATIVES, name, error)
                self._refused.add(name)
            packed.unlink()

    def _extract(self, packed: Path, directory: Path) -> None:
        """Plain files with names that are known, and no more bytes than came: neither compressed nor sparse."""
        with tarfile.open(packed, "r:") as tar:
            members = tar.getmembers()
            if strange := [m.name for m in members if not m.isreg() or m.issparse() or not re.fullmatch(self.members, m.name)]:
                raise tarfile.ReadError(f"it holds {strange[0]!r:.100}")
            with committed_directory(directory) as place:
                tar.extractall(place, members, filter="data")


class TrainingExchange(Exchange):
    """Sends settings and weights, takes generations."""

    def claim(self) -> None:
        """Make the URL ours, so that what is old there may be removed.

        Raises:
            UserError: it holds objects that no run has put there.
        """
        mark = f"{self._root}/{OWNER}"
        if not self._files.exists(mark):
            found = self._files.find(self._root)
            strange = next((name for name in found if f"/{OWN}/" not in name), None)  # the service may have been first
            if strange is not None:
                raise UserError(
                    f"{self.url} holds {strange.rsplit('/', 1)[-1]} and was not made by a run: nothing there was "
                    "touched; choose a URL with nothing below it"
                )
            self._files.pipe_file(mark, b"exchange\n")
        self._is_ours = True

    def clear(self) -> None:
        """Remove what a run that nobody continues has left at the URL."""
        self.claim()
        for kind in (WEIGHTS, NEGATIVES, OWN):
            for name in self._names(kind):
                self._remove(f"{kind}/{name}")

    def sync(self) -> None:
        if not self._is_ours:
            self.claim()
        self._put_changed(self.folder / CONFIG, CONFIG)
        own, there = self._own_weights(), self._names(WEIGHTS)
        for name in own.keys() - there:
            self._put(own[name], f"{WEIGHTS}/{name}")
        for name in there - own.keys():
            self._remove(f"{WEIGHTS}/{name}")
        self._fetch_generations(self._names(NEGATIVES) - self._own_generations().keys())


class ServiceExchange(Exchange):
    """Takes settings and weights, sends generations; its folder is empty at first.

    The lease is an object with the holder's name and a beat; a process holds it when it has written its name and then reads it.
    """

    def __init__(self, url: str, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(url, folder)
        self.name = this_process()
        self.holder = UNKNOWN
        self._clock, self._beat, self._since = clock, "", clock()
        self._known: set[str] = set()
        self._config: object = None

    def acquire(self) -> str | None:
        """Who else holds the lease; None when it is this process."""
        return None if self.holder == self.name else self.holder

    def sync(self) -> None:
        self._hold()
        self._take_config()
        self._take_weights()
        self._exchange_generations()
        if self.holder == self.name:
            for name in RECORD:
                self._put_changed(self.folder / OWN / name, f"{OWN}/{name}")

    def stop(self) -> None:
        super().stop()
        if self.holder == self.name:
            self._remove(f"{OWN}/lease")

    def _hold(self) -> None:
        place = f"{self._root}/{OWN}/lease"
        found = self._files.cat_file(place).decode() if self._files.exists(place) else ""
        if found != self._beat:
            self._beat, self._since = found, self._clock()
        holder = found.partition("\n")[0]
        if holder == self.name and self.holder != self.name:  # taken, not only written: what an earlier life recorded goes on
            for name in self._names(OWN) & RECORD:
                self._get(f"{OWN}/{name}", self.folder / OWN / name)
        self.holder = holder or UNKNOWN
        if holder in ("", self.name) or self._clock() - self._since > DEAD_S:
            self._files.pipe_file(place, f"{self.name}\n{time.time_ns()}".encode())

    def _take_config(self) -> None:
        if not self._files.exists(f"{self._root}/{CONFIG}"):
            return
        text = self._files.cat_file(f"{self._root}/{CONFIG}")
        if text != self._config:
            self._get(CONFIG, self.folder / CONFIG)
            self._config = text

    def _take_weights(self) -> None:
        own, there = self._own_weights(), self._names(WEIGHTS)
        for name in sorted(there - own.keys(), reverse=True):  # the newest first
            self._get(f"{WEIGHTS}/{name}", self.folder / WEIGHTS / name)
        for name in own.keys() - there:
            own[name].unlink()

    def _exchange_generations(self) -> None:
        own, there = self._own_generations(), self._names(NEGATIVES)
        for name in own.keys() - there:
            if name in self._known:
                remove_directory(own[name])  # of a run that was begun again
            else:
                self._send(name, own[name])
        self._fetch_generations(there - own.keys())
        self._known = there | self._own_generations().keys()

    def _send(self, name: str, path: Path) -> None:
        packed = path.with_name(f".{name}")
        with tarfile.open(packed, "w") as tar:
            for file in sorted(file for file in path.iterdir() if re.fullmatch(MEMBER, file.name)):
                tar.add(file, file.name)
        self._put(packed, f"{NEGATIVES}/{name}")
        packed.unlink()
