"""An index of pictures: python launch/search.py build|add|remove|query|serve|duplicates|upload key=value ...

build makes it, add and remove change it, query, serve and duplicates ask it, upload sends it to a vector database.
`VERB --help` lists the settings. What was interrupted is continued by the same command (build: by add).
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from largescale.config import asked, chosen, explain, load
from largescale.program.cli import called
from largescale.program.running import run_program
from largescale.search.config import (
    AddConfig,
    BuildConfig,
    DuplicatesConfig,
    OfModel,
    QueryConfig,
    RemoveConfig,
    UploadConfig,
)
from largescale.search.server.config import ServeConfig
from largescale.settings import Settings, UserError

if TYPE_CHECKING:
    from largescale.search.index import Index

VERBS: dict[str, type[Settings]] = {
    "build": BuildConfig,
    "add": AddConfig,
    "remove": RemoveConfig,
    "query": QueryConfig,
    "serve": ServeConfig,
    "duplicates": DuplicatesConfig,
    "upload": UploadConfig,
}

SEARCH = called("search")


def main(arguments: list[str]) -> None:
    verb = chosen(arguments, VERBS, str(__doc__).replace("python launch/search.py", SEARCH), "verb")
    if verb is None:
        return
    if (group := asked(arguments)) is not None:
        print(explain(VERBS[verb], f"{SEARCH} {verb} [key=value ...] [--help]", tuple(VERBS[verb].model_fields), group))
        return
    actions[verb](load(VERBS[verb], arguments[1:]))


def build(config: BuildConfig) -> None:
    from largescale.search.index import Index
    from largescale.search.source import files

    settings = {"factory": config.factory, "memory": int(config.memory_gb * 2**30), "min_recall": config.min_recall}
    if config.rows is not None and config.names is not None:
        rows, keys = read_rows(config.rows, config.names)
        index = Index.create(config.index, rows.shape[1], thumbnails=0, **settings)
        index.add_rows(rows, [config.prefix + key for key in keys])
        print(f"{config.index}: {len(index):,} rows, {index.view.manifest.kind.index}")
        return
    assert config.model is not None
    assert config.source is not None
    model, found = read_model(config.model), files(config.source, config.prefix)
    settings |= {"model": model, "thumbnails": config.thumbnails}
    add_to(Index.create(config.index, model.dim, model.metric, **settings), found, config)


def add(config: AddConfig) -> None:
    from largescale.search.source import files

    add_to(opened(config), files(config.source, config.prefix), config)


def add_to(index: "Index", found: Any, config: BuildConfig | AddConfig) -> None:
    from largescale.search.source import add_files
    from largescale.search.writer import writing

    with writing(config.index) as writer, stop_asked() as stop:
        assert index.model is not None
        added = add_files(writer, index.model, found, progress=True, should_stop=stop)
        manifest = writer.view.manifest
    recall = "" if manifest.kind.recall is None else f", recall {100 * manifest.kind.recall:.1f} %"
    print(f"{added}\n{config.index}: {manifest.rows:,} pictures, {manifest.kind.index}{recall}")
    if added.stopped:
        print(f"stopped; continue with: {SEARCH} add index={config.index} source={config.source} prefix={config.prefix!r}")


def remove(config: RemoveConfig) -> None:
    import numpy as np

    from largescale.search.find import Options, matching
    from largescale.search.writer import writing

    with writing(config.index) as writer:
        view = writer.view
        ids = view.find(config.keys)
        unknown = [key for key, id in zip(config.keys, ids, strict=True) if id < 0]
        if unknown:
            raise UserError(f"{', '.join(unknown[:10])}: not in the index, so nothing was removed")
        if config.label or config.path:
            ids = np.union1d(ids, np.flatnonzero(matching(view, Options(label=config.label, path=config.path)) & view.live))
        if config.missing:
            paths = view.column("path").to_pylist()
            ids = np.union1d(ids, [id for id in np.flatnonzero(view.live) if paths[id] and not Path(paths[id]).exists()])
        writer.remove(ids.astype(np.int64))
        print(f"{len(ids):,} removed, {writer.view.manifest.rows:,} left")


def query(config: QueryConfig) -> None:
    from largescale.search.find import Options
    from largescale.search.index import Index

    needs_model = config.pictures or config.box
    index = opened(config) if needs_model else Index.open(config.index)
    pictures = [str(picture) for picture in config.pictures] or None
    options = config.model_dump(include=set(Options.model_fields))
    for hit in index.search(pictures, box=config.box, key=config.key, **options):
        agree = "" if hit.inliers is None else f"\t{hit.inliers}"
        print(f"{hit.score:.4f}\t{hit.key}\t{hit.label or ''}{agree}")


def serve(config: ServeConfig) -> None:
    try:
        from largescale.search.server.serve import serve as run
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "multipart", "python_multipart"):
            raise
        raise UserError(f"the server needs {error.name}: pip install 'largescale[serve]'") from None
    run(opened(config), config)


def duplicates(config: DuplicatesConfig) -> None:
    from largescale.search import duplicates as found
    from largescale.search.index import Index

    made = config.threshold is None and config.known is None
    index = opened(config) if made else Index.open(config.index)
    view, threshold = index.view, config.threshold
    if threshold is None:
        assert made == (config.known is None)
        known = found.known_pairs(view, config.known) if config.known else found.made_pairs(view, index.model)  # type: ignore[arg-type]
        chosen = found.threshold_of(view, known, config.share)
        print(chosen)
        threshold = chosen.value
    groups = list(found.groups(view, threshold))
    text = found.written(view, groups)
    print(f"{len(groups):,} groups of {sum(map(len, groups)):,} pictures")
    if config.out is None:
        print(text, end="")
    else:
        from largescale.commit import write_text

        write_text(config.out, text)
        print(config.out)


def upload(config: UploadConfig) -> None:
    from largescale.search.upload.upload import upload as run

    print(run(config))


def opened(config: OfModel) -> "Index":
    """The index with its model."""
    from largescale.search.index import Index
    from largescale.search.manifest import IndexManifest

    location = config.model or IndexManifest.read(config.index).location
    if location is None:
        raise UserError(f"{config.index} does not say where its model is: give model=…")
    if config.model is None and Path(location).is_absolute() and not Path(location).exists():
        raise UserError(f"the model of {config.index} was at {location}, and is not there any more: give model=… where it is now")
    return Index.open(config.index, read_model(location))


def read_model(location: str) -> Any:
    import largescale

    return largescale.load(location)


def read_rows(rows: Path, names: Path) -> tuple[Any, list[str]]:
    from largescale.describing.result import open_rows, require_described

    array = open_rows(rows)
    require_described(names)
    try:
        keys = names.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"names={names}: {error}") from None
    if array.ndim != 2 or len(array) != len(keys):
        raise UserError(f"{rows} is {array.shape} and {names} has {len(keys):,} lines; expected a line for each row")
    return array, keys


@contextmanager
def stop_asked() -> Iterator[Any]:
    """Whether the user, or the system, asks the program to end: what is described is kept first."""
    received: list[int] = []
    before = [(number, signal.signal(number, lambda *_: received.append(1))) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


actions: dict[str, Any] = {
    "build": build,
    "add": add,
    "remove": remove,
    "query": query,
    "serve": serve,
    "duplicates": duplicates,
    "upload": upload,
}

if __name__ == "__main__":
    run_program(main)
