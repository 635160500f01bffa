"""From a source of pictures to files of descriptors: claim, describe, write, tidy."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from largescale.commit import claim_folder, read_json, write_text
from largescale.corpus.corpus import Corpus
from largescale.describing.config import EmbedConfig
from largescale.describing.formats import check_pair_names, nearest_others, write_descriptors, write_pairs
from largescale.describing.model import Model
from largescale.describing.parts import PassParts, describe_parts
from largescale.describing.result import RESULT, changed_files, write_result
from largescale.distributed import World
from largescale.locks import take
from largescale.models.transform.fused import ways_of
from largescale.precision import agreed
from largescale.processes import StoppedError
from largescale.settings import UserError

PARTS = "parts"


@contextmanager
def claim(config: EmbedConfig, world: World) -> Iterator[None]:
    """While it lasts, `out` is ours.

    Raises:
        UserError: it holds something that is no result of this program, or another process writes to it.
    """
    with ExitStack() as held:
        world.decide(lambda: _claim(config.out, held))
        yield


def _claim(out: Path, held: ExitStack) -> None:
    claim_folder(out, "embedding", "out=")
    file = held.enter_context((out / ".lock").open("a+"))
    if (holder := take(file)) is not None:
        raise UserError(f"{out} is being written to by {holder}: wait for it, end it, or give another out")


class ImageSource(Protocol):
    """Images, some of which may have no header."""

    corpus: Corpus
    ids: np.ndarray
    faults: dict[int, str]


def describe_source(
    model: Model, source: ImageSource, config: EmbedConfig, world: World, should_stop: Callable[[], bool]
) -> None:
    """Describe every picture of a source that can be decoded, and write the files of `config.format`.

    Raises:
        UserError: `out` holds the descriptors of something else; names that `pairs` cannot have; no picture could be decoded.
        StoppedError: `should_stop` said so on some rank; the same call goes on later.
    """
    model = model.computing_in(agreed(model.settings.precision, world))
    about = {
        "model": model.digest,
        "precision": model.precision,
        "computed": ways_of(model.at_scales, world),
        "metric": model.metric,
        "source": config.source,
        "images": source.corpus.manifest.fingerprint,
        "format": config.format,
    }
    if world.decide(lambda: _is_done(config, about)):
        return
    if config.pairs:
        world.decide(lambda: check_pair_names(source.corpus.manifest.keys.take(pa.array(source.ids)).to_pylist()))
    parts = PassParts(config.out / PARTS, source.corpus, source.ids)
    if not describe_parts(model, parts, model.embedder(config.batch_size, config.loader, should_stop), world):
        raise StoppedError
    world.decide(lambda: _publish(model, source, parts, config, about))


def _is_done(config: EmbedConfig, about: Mapping[str, str]) -> bool:
    """Take a folder for this result, or see that it has it."""
    path = config.out / RESULT
    if path.exists():
        found = read_json(path)
        changed = [f"{name} was {found.get(name)!r}, is {value!r}" for name, value in about.items() if found.get(name) != value]
        if changed:
            raise UserError(f"{config.out} holds other descriptors ({'; '.join(changed)}); give another out, or delete it")
        if found["files"] and not (damaged := changed_files(config.out, found)):
            print(f"{config.out} has the descriptors of all {found['descriptors']:,} pictures already")
            shutil.rmtree(config.out / PARTS, ignore_errors=True)  # of a program that was killed as it had finished
            return True
        if found["files"]:
            print(f"{', '.join(damaged)} in {config.out}: damaged or gone; the pictures are described again")
    write_result(config.out, about, None)
    return False


def _publish(model: Model, source: ImageSource, parts: PassParts, config: EmbedConfig, about: Mapping[str, str]) -> None:
    keys, count = source.corpus.manifest.keys, parts.count()
    bad = [(keys[id].as_py(), fault) for id, fault in source.faults.items()] + parts.bad()
    if bad:
        write_text(config.out / "bad.tsv", "".join(f"{key}\t{' '.join(error.split())}\n" for key, error in bad))
    if not count:
        raise UserError(f"none of the {len(bad):,} pictures of {config.source} can be decoded: {config.out / 'bad.tsv'} says why")
    named = ((keys.take(pa.array(ids)).to_pylist(), rows) for ids, rows in parts.read())
    files = write_descriptors(config.out, config.format, named, count, model.dim, about)
    if config.pairs:
        ids, rows = (np.concatenate(column) for column in zip(*parts.read(), strict=True))
        names = keys.take(pa.array(ids)).to_pylist()
        write_pairs(config.out / "pairs.txt", names, nearest_others(rows, config.pairs, model.metric))
        files.append("pairs.txt")
    write_result(config.out, {**about, "descriptors": count, "bad": len(bad), "dim": model.dim}, files)
    shutil.rmtree(parts.directory)
    print(f"{config.out / files[0]}: {count:,} descriptors of {model.dim} dimensions")
    if bad:
        print(f"{len(bad):,} pictures have none: {config.out / 'bad.tsv'}")
