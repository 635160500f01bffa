"""Every stage on a disk that is too small, and in a folder that cannot be written: a sentence that names place and cure, and
nothing lost, so that the same work ends as undisturbed work once there is room. Needs root, for a disk of its own.
"""

import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from largescale.corpus.config import StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.program.running import fault_of_place
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.corpus.servers import serve
from tests.torture.kills import preload
from tests.torture.stages import Stage, files, stages
from tests.world import run_world

AMPLE = "256m"
CURE = r"make room|choose|can be written|larger disk"
SLOW_S, PAGE = 600, 4096


@contextmanager
def disk(place: Path) -> Iterator[Callable[[str], None]]:
    """A file system at `place`; what is given mounts it anew: `size=BYTES,rw` or `ro`."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={AMPLE}", "tmpfs", str(place)], check=True)

    def mount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def said(world: World, work: Callable[..., Any], *arguments: Any) -> str:
    """What the program would say of an error; nothing where it ends well."""
    try:
        work(world, *arguments)
    except UserError as error:
        return str(error)
    except Exception as error:
        sentence = fault_of_place(error)
        if sentence is None:
            raise
        return sentence
    return ""


def fill(name: str, stage: Stage, folder: Path, tries: int, seed: int = 0) -> Counter[str]:
    """A stage on disks of random sizes, each then made large enough, and in a folder that is closed before it begins.

    A disk holds less than what the undisturbed work leaves on it, measured there.

    Raises:
        AssertionError: a traceback, a sentence without place or cure, or an end that differs.
    """
    sizes, counts = random.Random(f"{seed} {name}"), Counter[str]()
    with disk(folder / "disk") as mount:
        calm = folder / "disk" / "calm"
        stage.arguments(calm)
        given = _pages(folder / "disk")
        _said(stage, calm)
        expected, needed = stage.found(calm), _pages(folder / "disk") - given
        assert expected
        shutil.rmtree(calm)
        for number in range(tries):
            place = folder / "disk" / str(number)
            stage.arguments(place)
            pages = _pages(folder / "disk") + sizes.randrange(1, needed)
            mount("ro" if number == 0 else f"size={pages * PAGE},rw")
            sentences = _said(stage, place)
            mount(f"size={AMPLE},rw")
            counts["closed" if number == 0 else "full" if any(sentences) else "large enough"] += 1
            for sentence in filter(None, sentences):
                assert str(folder / "disk") in sentence, f"{name}: no place is named: {sentence}"
                assert re.search(CURE, sentence), f"{name}: no cure is named: {sentence}"
            assert any(sentences) or number > 0, f"{name}: nothing is said of a folder that cannot be written"
            _said(stage, place)
            assert stage.found(place) == expected, f"{name}: the end differs from the undisturbed one"
            assert list(place.rglob("*.partial")) == [], f"{name}: partial files are left behind"
            shutil.rmtree(place)
    return counts


def _pages(disk: Path) -> int:
    """What is taken of a disk."""
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize // PAGE


def _said(stage: Stage, place: Path) -> list[str]:
    return run_world(stage.ranks, said, stage.work, *stage.arguments(place), timeout_s=SLOW_S, patience_s=SLOW_S / 2)


@contextmanager
def cache(folder: Path) -> Iterator[Stage]:
    """Reading a corpus behind a URL."""
    corpus = make_corpus(folder / "corpus", labels=4, per_label=3, shards=3, size=32)
    with serve(corpus) as server:
        yield Stage(1, read_through, lambda place: (server.url, place), lambda place: files(place / "shards"), 0, ())


def read_through(_: World, url: str, cache: Path) -> None:
    corpus = Corpus.open(url, StorageConfig(cache=cache, attempts=2))
    corpus.read(range(len(corpus.manifest)))


def table(found: Mapping[str, Counter[str]]) -> str:
    names = ("closed", "full", "large enough")
    lines = [f"| {stage} | " + " | ".join(str(counts[name]) for name in names) + " |" for stage, counts in found.items()]
    head = ["| stage | folder that cannot be written | full disk | disk that was large enough |", "|---|" + "---:|" * 3]
    return "\n".join([*head, *lines])


def everything(folder: Path, tries: int, only: Collection[str] = ()) -> Iterator[tuple[str, Counter[str]]]:
    """Every stage, or `only` those of these names. The mining service waits for room: it has a folder that cannot be written."""
    preload()
    with cache(folder / "cached") as cached:
        made = stages(folder / "inputs") | {"cache": cached}
        for name, stage in made.items():
            if name in (only or made):
                yield name, fill(name, stage, folder / name, 1 if name == "mining service" else tries)
