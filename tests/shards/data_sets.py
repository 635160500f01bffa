"""`python -m tests.shards.data_sets`: what comes out of each data set as it is published; makes docs/reference/data-sets.md.

Every tree is written into a temporary folder and read as `make shards` reads it.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from shards.layouts import LAYOUTS, choose, corpora
from shards.sources import Item, Skipped, Source
from shards.sources.files import IMAGE_SUFFIXES
from shards.sources.layout import Request
from tests.shards.own_trees import OWN_TREES
from tests.shards.trees import TREES, Counts

LISTS, WIDTH = (".txt", ".csv", ".jsonl"), 110
HEAD = """# Data sets

What `make shards SOURCE=…` takes from each collection: generated trees of the exact published layout, with a few images each, and
what comes out of them: `train 6, 2` is six images with two labels in `OUT/train`. The full sets were not downloaded for it.
`python -m tests.shards.data_sets` writes this page; `tests/shards/test_data_sets.py` reads the trees again and compares.

| data set | recognized by | images and labels that come out | left out |
|---|---|---|---|
"""
TREES_OF_ALL = [(name, write) for trees in (TREES, OWN_TREES) for name, writers in trees.items() for write in writers]


def source_of(name: str, folder: Path) -> Path:
    """What a user gives as SOURCE: of a list its file, else the folder."""
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix not in IMAGE_SUFFIXES)
    return next(files) if name == "list" else folder


def read(source: Source) -> tuple[tuple[int, int], Counter[str]]:
    """Images and labels of a corpus, and how many were left out by reason."""
    found = list(source.items())
    items = [item for item in found if isinstance(item, Item)]
    labels = {item.label for item in items} - {None}
    return (len(items), len(labels)), Counter(item.reason for item in found if isinstance(item, Skipped))


def page() -> str:
    rows, trees = [], []
    for name, write in TREES_OF_ALL:
        with tempfile.TemporaryDirectory() as place:
            row, tree = entry(name, write, Path(place))
        rows.append(row)
        trees.append(tree)
    return HEAD + "\n".join(rows) + "\n\n## The trees\n" + "".join(trees)


def entry(name: str, write: Callable[[Path], Counts], folder: Path) -> tuple[str, str]:
    """The row of a data set, and its tree."""
    write(folder)
    source = source_of(name, folder)
    by = choose(source).by
    found = {corpus or "one": read(corpus_source) for corpus, corpus_source in corpora(Request(source), LAYOUTS[name]).items()}
    counts = "; ".join(f"{corpus} {images}, {labels}" for corpus, ((images, labels), _) in found.items())
    left = Counter(reason for _, skipped in found.values() for reason in skipped)
    title = f"`{name}`" if len([other for other, _ in TREES_OF_ALL if other == name]) == 1 else f"`{name}`, {write.__name__}"
    row = f"| [{title}](#{write.__name__}) | {by.replace('|', ' ')} | {counts} | {'; '.join(sorted(left)) or '-'} |"
    about = " ".join((write.__doc__ or "").split())
    return row, f"\n### {write.__name__}\n\n{about}\n\n```text\n" + "\n".join(lines_of(folder, folder)) + "\n```\n"


def lines_of(folder: Path, root: Path) -> Iterator[str]:
    """Files with the first lines of lists, images as the first of their folder."""
    indent = "  " * len(folder.relative_to(root).parts)
    entries = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
    images = [path.name for path in entries if path.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        yield indent + ", ".join(images[:2]) + (f", … ({len(images)} images)" if len(images) > 2 else "")
    for path in (path for path in entries if path.name not in images):
        yield f"{indent}{path.name}{'/' * path.is_dir()}"
        if path.is_dir():
            yield from lines_of(path, root)
        elif path.suffix in LISTS:
            shown = path.read_text().splitlines()[:3]
            yield from (f"{indent}  | {line.expandtabs(4)}"[:WIDTH] for line in shown)


if __name__ == "__main__":
    Path("docs/reference/data-sets.md").write_text(page(), encoding="utf-8")
