"""The house: no circle of files, also not of types; no rooms that point at one another; no folder that wants rooms."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("largescale", "launch", "shards")
    for path in ROOT.glob(f"{package}/**/*.py")
    if path.name != "__init__.py"
}
MOST = 12


def _imported(name: str, path: Path) -> Iterator[str]:
    """The files that one imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: -node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


IMPORTS = {name: {other for other in _imported(name, path) if other in FILES and other != name} for name, path in FILES.items()}


def test_no_circle_of_files() -> None:
    TopologicalSorter(IMPORTS).prepare()  # names a circle


def test_rooms_of_a_part_do_not_point_at_one_another() -> None:
    arrows = {
        (a.rsplit(".", len(a.split(".")) - 3)[0], b.rsplit(".", len(b.split(".")) - 3)[0])
        for a, others in IMPORTS.items()
        for b in others
        if a.startswith("largescale.") and a.split(".")[:2] == b.split(".")[:2] and a.count(".") > 1 and b.count(".") > 1
    }
    assert not [(a, b) for a, b in arrows if a < b and (b, a) in arrows]


def test_a_folder_of_more_than_twelve_files_wants_rooms() -> None:
    assert not {folder: count for folder, count in Counter(path.parent for path in FILES.values()).items() if count > MOST}
